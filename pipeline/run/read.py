"""A run read back from its folder: what show, compare, check, report, merge and sweep go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError, model_validator

from ...rerankers.accounting import frame, total
from ...rerankers.errors import InputError
from ...rerankers.types import Cost
from ..configs.load import Expected
from ..io.files import reason
from . import costs, manifest, runfile
from .costs import Efficiency, Summary
from .manifest import Manifest, joules
from .measures import Metrics

if TYPE_CHECKING:
    import pandas as pd

METRICS = "metrics.json"


class RunMeasures(Metrics):
    """The content of `metrics.json`: the last order's measures, and those of the orders before it."""

    first_stage: Metrics | None = None
    reranked: Metrics | None = None
    """The order before it was fused with another run, if it was."""

    efficiency: Efficiency | None = None
    """None if FLOPs are unknown."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        for order in filter(None, (self.first_stage, self.reranked)):
            for values in (order.mean, *order.per_query.values()):
                if values.keys() != self.mean.keys():
                    raise ValueError("its orders have different measures")
        return self

    @property
    def content(self) -> dict[str, Any]:
        """Return the JSON object in the file."""
        return self.model_dump(by_alias=True, exclude_none=True)


@dataclass(frozen=True)
class Run:
    """A run as its folder describes it, unchecked: `verify` checks it."""

    run_dir: Path
    manifest: Manifest
    metrics: RunMeasures | None
    """None if nothing was measured."""

    spent: Mapping[str, Sequence[Cost]]
    """The costs of each query by stage; empty if nothing was reranked yet."""

    expected: Mapping[str, Expected] = field(default_factory=dict)
    """The published figures that this run can be held against."""

    executed: bool = True
    """False if it was finished before and is only shown."""

    @property
    def totals(self) -> list[Cost]:
        """Return the costs of each query, all stages together."""
        return list(map(total, self.spent.values()))

    @cached_property
    def costs(self) -> Summary:
        """Return the summary of costs; empty if nothing was reranked yet."""
        spent = costs.energy(joules(self.manifest.executions), len(self.spent)) if self.spent else {}
        return costs.summary(self.totals) | spent if self.spent else {}

    @cached_property
    def stages(self) -> list[Summary]:
        """Return the summary of each stage of a cascade."""
        by_stage = list(zip(*self.spent.values(), strict=False))
        return list(map(costs.summary, by_stage)) if len(by_stage) > 1 else []

    @property
    def run_file(self) -> Path:
        """Return the last order's run file."""
        return self.run_dir / self.manifest.run_file

    @property
    def queries(self) -> int:
        """Return the number of queries with candidates."""
        return self.manifest.queries or int((self.costs["asks"]["queries"] or 0) if self.costs else 0)

    def rankings(self) -> pd.DataFrame:
        """Return the ranking as PyTerrier has it: qid, docno, rank from 0, score."""
        import pandas as pd

        hits = runfile.read(self.run_file)[0]
        rows = [(query, doc, rank, score) for query in hits for rank, (doc, score) in enumerate(hits[query])]
        return pd.DataFrame(rows, columns=["qid", "docno", "rank", "score"])

    def query_measures(self) -> pd.DataFrame:
        """Return the measures of each judged query, a row a qid."""
        import pandas as pd

        rows = self.metrics.per_query if self.metrics else {}
        return pd.DataFrame.from_dict(dict(rows), orient="index").rename_axis("qid")

    def query_costs(self) -> pd.DataFrame:
        """Return the costs of each query, a row a qid; of a cascade all stages together."""
        return frame(self.totals)

    @property
    def refusal(self) -> str | None:
        """Return the complaint if more answers are unread than the config's `max_unparsed` allows."""
        asks, unparsed = sum(cost.asks for cost in self.totals), self.manifest.unparsed
        most = self.manifest.config.max_unparsed
        if most is None or not asks or unparsed <= most * asks:
            return None
        share = f"{unparsed / asks:.1%} where max_unparsed allows {most:.1%}"
        return (
            f"{unparsed:,} of {asks:,} answers could not be read, {share}; all answers, ranking and measures are kept"
        )


def read(path: Path) -> Run:
    """Return the run in a folder. Raises `InputError` if there is none, or a file of it cannot be read."""
    if not (path / manifest.NAME).is_file():
        raise InputError(f"{path}: no run's folder: there is no {manifest.NAME} in it; r2llm rerank makes one")
    spent = path / "costs.jsonl"
    return Run(
        run_dir=path,
        manifest=manifest.read(path / manifest.NAME),
        metrics=measures(path / METRICS),
        spent=costs.read(spent) if spent.is_file() else {},
    )


def measures(path: Path) -> RunMeasures | None:
    """Return a `metrics.json`, or None if there is none. Raises `InputError` if it is malformed."""
    if not path.is_file():
        return None
    try:
        return RunMeasures.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        remedy = "r2llm verify says more; remove it and run again to measure anew"
        raise InputError(f"{path}: cannot be read: {reason(error)}; {remedy}") from error
