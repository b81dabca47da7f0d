"""Baselines of regression checks: what an experiment once came to, in a small JSON file for version control.

It holds no path, time or version, so that it is the same on every machine, and one fact a line, so that its diff can be
read.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, PlainSerializer, ValidationError, model_validator

from ...rerankers.errors import InputError
from ...rerankers.types import Query
from ..io.files import reason, save
from ..run import contents, manifest, runfile
from ..run import read as record
from ..run.measures import EXACT

TOP = 10  # documents of each ranking that are named; the rest only goes into its hash

COSTS = ("asks", "rounds", "comparisons", "prompt_tokens", "completion_tokens", "unparsed")
"""The counts that describe the experiment; calls, cached answers and seconds describe its executions."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Measure = Annotated[float, PlainSerializer(lambda value: round(value, 6))]


class _Part(BaseModel, frozen=True, strict=True, extra="forbid"):
    pass


class Tolerances(_Part):
    """Tolerances: how far results may move. For people to edit; `--update` keeps them.

    `measures` are absolute changes of a mean, by default `EXACT`; `costs` are shares of a total (of 1 if it is 0), by
    default 0; `queries` is how many queries may have another ranking or other measures.
    """

    measures: dict[str, Amount] = {}
    costs: dict[str, Amount] = {}
    queries: int = Field(0, ge=0)

    def of(self, name: str) -> float:
        """Return the tolerance of a measure or a count."""
        return self.costs.get(name, 0.0) if name in COSTS else self.measures.get(name, EXACT)


class QueryResult(_Part):
    """Results of one query; `ranking` is a hash of all documents in order, and `top` names them, a file the first."""

    measures: dict[str, Measure] = {}
    costs: dict[str, int | None] = {}
    ranking: str
    top: Annotated[tuple[str, ...], PlainSerializer(lambda docs: docs[:TOP])]


class Results(_Part):
    """Results of an experiment, its queries in the dataset's order; `parts` hash what the fingerprint covers."""

    format: Literal[1] = 1
    name: str
    fingerprint: str
    parts: dict[str, str]
    tolerances: Tolerances = Tolerances()
    measures: dict[str, Measure]
    costs: dict[str, int | None]
    queries: dict[str, QueryResult] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_tolerances(self) -> Self:
        for kind, known in (("measures", [*self.measures]), ("costs", [*COSTS])):
            for name in getattr(self.tolerances, kind):
                if name not in known:
                    raise ValueError(f"tolerances.{kind}.{name} is not among {', '.join(known) or 'none'}")
        return self


def of_run(folder: Path, queries: Mapping[str, Query]) -> Results:
    """Return the results in a run's folder, with exact tolerances; if it is a run of these queries, for all of them.

    Its files do not name those without candidates and judgements. Raises `InputError` for a run that is not finished.
    """
    run = record.read(folder)
    about, spent = run.manifest, {cost.query_id: cost for cost in run.totals}
    if about.status != "finished":
        raise InputError(f"{folder}: is not finished; run its r2llm rerank command again, or leave it out")
    rankings = runfile.documents(runfile.read(run.run_file)[0])
    measured = run.metrics.per_query if run.metrics else {}
    named = queries if about.data.get("queries") == contents.queries(queries) else {**rankings, **measured}
    content = {
        "name": about.name,
        "fingerprint": about.fingerprint,
        "parts": _parts(about),
        "measures": run.metrics.mean if run.metrics else {},
        "costs": {name: run.costs[name]["total"] for name in COSTS if run.costs},
        "queries": {
            query: {
                "measures": measured.get(query, {}),
                "costs": {name: getattr(spent[query], name) for name in COSTS} if query in spent else {},
                "ranking": _digest(rankings.get(query, [])),
                "top": tuple(rankings.get(query, ())),
            }
            for query in named
        },
    }
    return Results.model_validate(content)


def _parts(about: manifest.Manifest) -> dict[str, str]:
    """Return a hash of each part of the experiment; the hashes of texts and queries are the part `dataset`."""
    first_stage = dict(about.first_stage)
    texts = {key: first_stage.pop(key, None) for key in ("dataset", "queries")}
    parts = {"dataset": texts, **about.content["experiment"], "first_stage": first_stage}
    return {name: _digest(part) for name, part in parts.items()}


def _digest(value: object) -> str:
    return contents.digest(value)[:16]  # 64 bits: enough to tell a handful of things apart, and short


def read(path: Path, queries: Mapping[str, Query]) -> Results:
    """Return the baseline in a file, or the results of these queries in a run's folder.

    Raises `InputError` that names the place of what is wrong, and for a run that is not finished.
    """
    if (path / manifest.NAME).is_file():
        return of_run(path, queries)
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    except ValidationError as error:
        remedy = "mend it, or remove it and write it anew with --update"
        raise InputError(f"{path}: not a baseline of this r2llm: {reason(error)}; {remedy}") from error


def write(path: Path, results: Results, tolerances: Tolerances) -> None:
    """Write results as a baseline, the same bytes for the same results, with those tolerances that it has results for.

    Raises `InputError` if writing fails.
    """
    of_each = {"measures": _of(tolerances, results.measures), "costs": _of(tolerances, COSTS)}
    content = results.model_copy(update={"tolerances": tolerances.model_copy(update=of_each)})
    save(path, _lines(content.model_dump(mode="json")) + "\n")


def _of(tolerances: Tolerances, names: Iterable[str]) -> dict[str, float]:
    return {name: tolerances.of(name) for name in names}


def _lines(value: Any, indent: str = "") -> str:
    """Return JSON with an object of plain values on one line, and others indented."""
    if not isinstance(value, dict) or not any(isinstance(item, dict | list) for item in value.values()):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{indent}  "
    items = (f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"
