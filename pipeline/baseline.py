"""The baseline of a regression check: what an experiment once came to, in a small JSON file that git keeps.

It holds no path, no time and no version, so that it is the same on every machine, and it is written one fact a line,
so that its own diff can be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..rerankers.errors import InputError
from .io.files import json_lines, reason, replacing
from .run import contents, runfile
from .run.read import Run

TOP = 10
"""How many documents of each ranking are written down by name; the rest of it only goes into a hash."""

DECIMALS = 6
"""Measures are written with so many decimals."""

EXACT = 1e-6
"""The tolerance of a measure unless the file says otherwise: what rounding can make of an equal value."""

COSTS = ("asks", "rounds", "comparisons", "prompt_tokens", "completion_tokens", "unparsed")
"""The counts that describe the experiment; calls, cached answers and seconds describe one execution of it."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Tolerances(_Part):
    """How far things may move. For people to edit: `--update` keeps them."""

    measures: dict[str, Amount] = {}
    """Measure → absolute change of its mean; `EXACT` where none is given."""

    costs: dict[str, Amount] = {}
    """Count → how far it may move, all queries together, as a share of its total: 0.05 is five per cent (of 1 where
    the total is 0); none where it is not given."""

    queries: int = Field(0, ge=0)
    """How many queries may have another ranking or other measures than before."""

    def of_measure(self, name: str) -> float:
        """The tolerance of a measure's mean."""
        return self.measures.get(name, EXACT)

    def of_cost(self, name: str) -> float:
        """The tolerance of a count, as a share of its total."""
        return self.costs.get(name, 0.0)


class QueryResult(_Part):
    """What one query came to."""

    measures: dict[str, float]
    costs: dict[str, int | None]
    ranking: str
    """A hash of the whole ranking."""
    top: tuple[str, ...]
    """The first documents of the ranking, best first."""


class Baseline(_Part):
    """What an experiment came to: its queries, in the dataset's order, their means and totals, and its tolerances."""

    format: Literal[1] = 1
    name: str
    fingerprint: str
    parts: dict[str, str]
    """A hash of each part of the experiment, by which two fingerprints can be told apart."""
    tolerances: Tolerances
    measures: dict[str, float]
    costs: dict[str, int | None]
    queries: dict[str, QueryResult] = Field(min_length=1)

    @model_validator(mode="after")
    def _tolerances_of_something(self) -> Self:
        """A misspelt tolerance would silently be none."""
        for kind, given, known in (
            ("measures", self.tolerances.measures, self.measures),
            ("costs", self.tolerances.costs, COSTS),
        ):
            for name in given:
                if name not in known:
                    raise ValueError(f"tolerances.{kind}.{name} is not among {', '.join(known) or 'none'}")
        return self

    def keeping(self, tolerances: Tolerances) -> Baseline:
        """This baseline with those tolerances, as far as they still mean something."""
        kept = Tolerances(
            measures={name: tolerances.of_measure(name) for name in self.measures},
            costs={name: tolerances.of_cost(name) for name in self.costs},
            queries=tolerances.queries,
        )
        return self.model_copy(update={"tolerances": kept})


def read(path: Path) -> Baseline:
    """The baseline in a file. Raises `InputError` that names the place of what is wrong."""
    try:
        return Baseline.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{path}: not a baseline of this r2llm: {f'{place}: ' if place else ''}{what}; "
            "mend it, or remove it and write it anew with --update"
        ) from error


def write(path: Path, baseline: Baseline) -> None:
    """Write a baseline: the same bytes for the same results. Raises `InputError` where that cannot be done."""
    save(path, _lines(_rounded(baseline.model_dump(mode="json"))) + "\n")


def save(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing; its folder is made if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: its folder cannot be made: {reason(error)}") from error
    with replacing(path) as stream:
        stream.write(text)


def of_run(outcome: Run, rankings: Mapping[str, Sequence[str]], queries: Iterable[str]) -> Baseline:
    """What a finished run came to, its measures not yet rounded, its tolerances exact."""
    spent = {row["query_id"]: row for _, row in json_lines(outcome.run_dir / "costs.jsonl")}
    means = outcome.metrics.mean if outcome.metrics else {}
    measured = outcome.metrics.per_query if outcome.metrics else {}
    totals = {name: outcome.costs[name]["total"] for name in COSTS}
    return Baseline(
        name=outcome.manifest.name,
        fingerprint=outcome.manifest.fingerprint,
        parts=_parts(outcome.manifest.content["experiment"]),
        tolerances=Tolerances(measures=dict.fromkeys(means, EXACT), costs=dict.fromkeys(COSTS, 0.0)),
        measures=means,
        costs={name: None if total is None else int(total) for name, total in totals.items()},
        queries={
            query: QueryResult(
                measures=measured.get(query, {}),
                costs={name: spent[query][name] for name in COSTS} if query in spent else {},
                ranking=_digest(rankings.get(query, ())),
                top=tuple(rankings.get(query, ())[:TOP]),
            )
            for query in queries
        },
    )


def rankings_of(outcome: Run) -> dict[str, list[str]]:
    """Each query's documents, best first, as the run file has them."""
    run, _ = runfile.read(outcome.run_file)
    return {query: [doc for doc, _ in found] for query, found in run.items()}


def _parts(experiment: Mapping[str, Any]) -> dict[str, str]:
    """A hash of each part of what the manifest says the experiment was; the texts go by the name of dataset."""
    parts = dict(experiment)
    first_stage = dict(parts.pop("first_stage"))
    texts = {key: first_stage.pop(key) for key in ("dataset", "queries")}
    named = {"dataset": texts, "first_stage": first_stage, **parts}
    return {name: _digest(part) for name, part in named.items()}


def _digest(value: object) -> str:
    """The first 64 bits of a hash: enough to tell a handful of things apart, and short enough for a line."""
    return contents.digest(value)[:16]


def _rounded(value: Any) -> Any:
    """The value with every number that is not whole rounded, so that the last bits of a machine do not show."""
    if isinstance(value, dict):
        return {key: item if key == "tolerances" else _rounded(item) for key, item in value.items()}
    return round(value, DECIMALS) if isinstance(value, float) else value


def _lines(value: Any, indent: str = "") -> str:
    """JSON with what holds only plain values on one line, and the rest indented."""
    if not isinstance(value, dict) or not any(isinstance(item, dict | list) for item in value.values()):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{indent}  "
    items = (f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"
