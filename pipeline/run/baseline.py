"""Baselines of regression checks: what an experiment once came to, in a small JSON file for version control.

It holds no path, time or version, so that it is the same on every machine, and one fact a line, so that its diff can be
read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from ...rerankers.errors import InputError
from ..io.files import json_lines, reason, replacing
from . import contents, manifest, runfile
from .measures import EXACT
from .read import Run
from .read import read as read_run

TOP = 10  # documents of each ranking that are named; the rest only goes into its hash

DECIMALS = 6  # of measures

COSTS = ("asks", "rounds", "comparisons", "prompt_tokens", "completion_tokens", "unparsed")
"""The counts that describe the experiment; calls, cached answers and seconds describe its executions."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel, frozen=True, strict=True, extra="forbid"):
    pass


class Tolerances(_Part):
    """How far results may move. For people to edit: `--update` keeps them.

    `measures` are absolute changes of a mean, by default `EXACT`; `costs` are shares of a total (of 1 if it is 0), by
    default 0; `queries` is how many queries may have another ranking or other measures.
    """

    measures: dict[str, Amount] = {}
    costs: dict[str, Amount] = {}
    queries: int = Field(0, ge=0)

    def of(self, kind: Literal["measures", "costs"], name: str) -> float:
        """Return the tolerance of a measure or a count."""
        return self.measures.get(name, EXACT) if kind == "measures" else self.costs.get(name, 0.0)


class QueryResult(_Part):
    """Results of one query; `ranking` is a hash of all documents in order, and `top` names the first."""

    measures: dict[str, float] = {}
    costs: dict[str, int | None] = {}
    ranking: str
    top: tuple[str, ...]


class Baseline(_Part):
    """Results of an experiment, its queries in the dataset's order; `parts` hash what the fingerprint covers."""

    format: Literal[1] = 1
    name: str
    fingerprint: str
    parts: dict[str, str]
    tolerances: Tolerances
    measures: dict[str, float]
    costs: dict[str, int | None]
    queries: dict[str, QueryResult] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_tolerances(self) -> Self:
        for kind, known in (("measures", [*self.measures]), ("costs", [*COSTS])):
            for name in getattr(self.tolerances, kind):
                if name not in known:
                    raise ValueError(f"tolerances.{kind}.{name} is not among {', '.join(known) or 'none'}")
        return self

    def keeping(self, tolerances: Tolerances) -> Baseline:
        """Return this baseline with those of the tolerances that it has results for."""
        measures = {name: tolerances.of("measures", name) for name in self.measures}
        costs = {name: tolerances.of("costs", name) for name in self.costs}
        kept = Tolerances(measures=measures, costs=costs, queries=tolerances.queries)
        return self.model_copy(update={"tolerances": kept})


def read(path: Path) -> Baseline:
    """Return the baseline in a file, or the results in a run's folder, of which tolerances are exact.

    Raises `InputError` that names the place of what is wrong, and for a run that is not finished.
    """
    if (path / manifest.NAME).is_file():
        run = read_run(path)
        if run.manifest.status != "finished":
            raise InputError(f"{path}: is not finished; run its r2llm rerank command again, or name another baseline")
        rankings = {query: [doc for doc, _ in hits] for query, hits in runfile.read(run.run_file)[0].items()}
        return of_run(run, rankings, dict.fromkeys([*rankings, *(run.metrics.per_query if run.metrics else ())]))
    try:
        return Baseline.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        fault = f"{place}: " * bool(place) + first["msg"].removeprefix("Value error, ")
        remedy = "mend it, or remove it and write it anew with --update"
        raise InputError(f"{path}: not a baseline of this r2llm: {fault}; {remedy}") from error


def write(path: Path, baseline: Baseline) -> None:
    """Write a baseline: the same bytes for the same results. Raises `InputError` if that fails."""
    save(path, _lines(_rounded(baseline.model_dump(mode="json"))) + "\n")


def save(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing, and its folder if need be. Raises `InputError` if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: its folder cannot be made: {reason(error)}") from error
    with replacing(path) as stream:
        stream.write(text)


def of_run(run: Run, rankings: Mapping[str, Sequence[str]], queries: Iterable[str]) -> Baseline:
    """Return the results of a finished run for these queries, measures not rounded, tolerances exact."""
    spent = {row["query_id"]: row for _, row in json_lines(run.run_dir / "costs.jsonl")}
    means, measured = (run.metrics.mean, run.metrics.per_query) if run.metrics else ({}, {})
    totals = {name: run.costs[name]["total"] for name in COSTS}
    return Baseline(
        name=run.manifest.name,
        fingerprint=run.manifest.fingerprint,
        parts=_parts(run.manifest.content["experiment"]),
        tolerances=Tolerances(measures=dict.fromkeys(means, EXACT), costs=dict.fromkeys(COSTS, 0.0)),
        measures=means,
        costs={name: None if total is None else int(total) for name, total in totals.items()},
        queries={
            query: QueryResult(
                measures=measured.get(query, {}),
                costs={name: spent[query][name] for name in COSTS} if query in spent else {},
                ranking=_digest(rankings.get(query, [])),
                top=tuple(rankings.get(query, [])[:TOP]),
            )
            for query in queries
        },
    )


def _parts(experiment: Mapping[str, Any]) -> dict[str, str]:
    """Return a hash of each part of the experiment; the hashes of texts and queries are the part `dataset`."""
    first_stage = dict(experiment["first_stage"])
    texts = {key: first_stage.pop(key) for key in ("dataset", "queries")}
    parts = {"dataset": texts, **experiment, "first_stage": first_stage}
    return {name: _digest(part) for name, part in parts.items()}


def _digest(value: object) -> str:
    return contents.digest(value)[:16]  # 64 bits: enough to tell a handful of things apart, and short


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key == "tolerances" else _rounded(item) for key, item in value.items()}
    return round(value, DECIMALS) if isinstance(value, float) else value


def _lines(value: Any, indent: str = "") -> str:
    """Return JSON with an object of plain values on one line, and others indented."""
    if not isinstance(value, dict) or not any(isinstance(item, dict | list) for item in value.values()):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{indent}  "
    items = (f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"
