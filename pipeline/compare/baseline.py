"""Baselines of regression checks: what an experiment once came to, in a small JSON file for version control.

It holds no path, time or version, so that it is the same on every machine, and one fact a line, so that its diff can be
read.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, PlainSerializer, ValidationError, model_validator

from ...rerankers.errors import InputError
from ..io.files import reason, replacing
from ..io.progress import Listener
from ..run import manifest
from ..run.measures import EXACT
from .runs import Run, of_folder, transposed

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
    """Results of one query; `ranking` is a hash of all documents in order, and `top` names the first."""

    measures: dict[str, Measure] = {}
    costs: dict[str, int | None] = {}
    ranking: str
    top: tuple[str, ...]


class Content(_Part):
    """Results of an experiment, its queries in the dataset's order; `parts` hash what the fingerprint covers."""

    format: Literal[1] = 1
    name: str
    fingerprint: str
    parts: dict[str, str]
    tolerances: Tolerances
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


@dataclass(frozen=True)
class Baseline:
    """Results that a run is held against, and how far it may move."""

    run: Run
    tolerances: Tolerances


def read(path: Path, listener: Listener) -> Baseline:
    """Return the baseline in a file, or the results in a run's folder, of which tolerances are exact.

    Raises `InputError` that names the place of what is wrong, and for a run that is not finished.
    """
    if (path / manifest.NAME).is_file():
        return Baseline(of_folder(path, None, None, listener), Tolerances())
    try:
        content = Content.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    except ValidationError as error:
        remedy = "mend it, or remove it and write it anew with --update"
        raise InputError(f"{path}: not a baseline of this r2llm: {reason(error)}; {remedy}") from error
    queries = content.queries
    run = Run(
        name=content.name,
        path=path,
        rankings={query: one.top for query, one in queries.items()},
        measures=transposed({query: one.measures for query, one in queries.items()}, content.measures),
        costs=transposed({query: one.costs for query, one in queries.items()}, content.costs),
        totals={**content.measures, **content.costs},
        fingerprint=content.fingerprint,
        parts=content.parts,
        hashes={query: one.ranking for query, one in queries.items()},
    )
    return Baseline(run, content.tolerances)


def write(path: Path, run: Run, queries: Collection[str], tolerances: Tolerances) -> None:
    """Write a run's results for these queries as a baseline: the same bytes for the same results.

    The tolerances are those given, where the run has results for them. Raises `InputError` if writing fails.
    """
    measures = transposed(run.measures, queries)
    costs = transposed({name: run.costs.get(name, {}) for name in COSTS}, queries)
    content = {
        "name": run.name,
        "fingerprint": run.fingerprint,
        "parts": run.parts,
        "tolerances": {
            "measures": {name: tolerances.of(name) for name in run.measures},
            "costs": {name: tolerances.of(name) for name in COSTS},
            "queries": tolerances.queries,
        },
        "measures": {name: run.totals[name] for name in run.measures},
        "costs": {name: run.totals[name] for name in COSTS},
        "queries": {
            query: {
                "measures": measures[query],
                "costs": {**dict.fromkeys(COSTS), **costs[query]} if costs[query] else {},
                "ranking": run.ranking_hash(query),
                "top": run.rankings.get(query, ())[:TOP],
            }
            for query in queries
        },
    }
    save(path, _lines(Content.model_validate(content, strict=False).model_dump(mode="json")) + "\n")


def save(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing, and its folder if need be. Raises `InputError` if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: its folder cannot be made: {reason(error)}") from error
    with replacing(path) as stream:
        stream.write(text)


def _lines(value: Any, indent: str = "") -> str:
    """Return JSON with an object of plain values on one line, and others indented."""
    if not isinstance(value, dict) or not any(isinstance(item, dict | list) for item in value.values()):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{indent}  "
    items = (f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"
