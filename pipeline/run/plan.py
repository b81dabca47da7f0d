"""An experiment that is ready to be ranked: its fingerprint, its judgements, and the measures of its first stage."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...rerankers.backends.base import Backend, Setting
from ...rerankers.cascade import Stage
from ...rerankers.models import KeptModels
from ...rerankers.types import Ranking
from ..configs.load import Config, Loaded
from ..first_stage.retrieve import FirstStage
from . import contents, fusion, manifest
from . import measures as evaluation
from .measures import Metrics
from .runfile import Run


def open_models(loaded: Loaded, setting: Setting, kept: KeptModels) -> list[Backend]:
    """Return the model of each stage, equal ones once. Raises `InputError` if one cannot be opened."""
    sections = zip(loaded.stages, loaded.models, strict=True)
    return kept.open([((section.model or {})["backend"], options) for section, options in sections], setting)


def stages(loaded: Loaded, models: Iterable[Backend]) -> list[Stage]:
    """Return a config's stages with these models."""
    return list(map(Stage, loaded.rankers, models, (stage.depth for stage in loaded.stages)))


@dataclass(frozen=True)
class Plan:
    """An experiment with its first stage done and its models opened: everything that decides the ranking."""

    loaded: Loaded
    first_stage: FirstStage
    partner: fusion.Partner | None
    stages: Sequence[Stage]
    """Empty for a first stage alone."""

    kept: Container[Backend] = ()
    """Models that stay open after the run."""

    @cached_property
    def config(self) -> Config:
        """Return the experiment's config, without published figures of another experiment."""
        config = self.loaded.config
        return config.model_copy(update={"expected": {}}) if self.loaded.changes_ranking else config

    @cached_property
    def content(self) -> Mapping[str, object]:
        """Return everything that can change the ranking, as the manifest records it."""
        if not self.stages:
            return self.first_stage.identity
        fused = self.partner.identity if self.partner else None
        return manifest.experiment(self.first_stage.identity, self.stages, fused, self.config.seed)

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the content: two runs of one fingerprint must give one ranking."""
        return contents.digest(self.content)

    @cached_property
    def data(self) -> dict[str, str | None]:
        """Return the hashes of queries and judgements."""
        qrels = self.first_stage.dataset.qrels()
        return {"queries": contents.queries(self.first_stage.queries), "qrels": contents.qrels(qrels)}

    @cached_property
    def qrels(self) -> evaluation.Qrels | None:
        """Return the judgements, or None if there are none, or if all judged queries are in other shards."""
        stage, qrels = self.first_stage, self.first_stage.dataset.qrels() or {}
        elsewhere = stage.shard and not any(map(qrels.get, stage.own_queries)) and any(map(qrels.get, stage.queries))
        return None if elsewhere else qrels or None

    @cached_property
    def before(self) -> Metrics | None:
        """Return the measures of the first stage, or None without judgements."""
        return self.measured(self.first_stage.documents)

    def measured(self, rankings: Mapping[str, Sequence[str]]) -> Metrics | None:
        """Return the measures of an order of the documents, or None without judgements."""
        names = evaluation.with_judged(self.config.evaluate.measures)
        return evaluation.measure(names, self.qrels, rankings, self.first_stage.own_queries) if self.qrels else None

    def orders(self, rankings: Mapping[str, Ranking]) -> tuple[Mapping[str, Sequence[str]], Run | None]:
        """Return the last order of each query's documents, and the one before it was fused, if it was."""
        if self.partner is None:
            return {query: ranking.docs for query, ranking in rankings.items()}, None
        unfused = fusion.scored(rankings)
        return self.partner.joined(unfused), unfused

    @property
    def folder(self) -> str:
        """Return the name of the run's folder."""
        return f"{self.config.name}-{self.fingerprint[:8]}"

    @property
    def backends(self) -> list[Backend]:
        """Return the models that are closed with the run, each once."""
        opened = {id(stage.backend): stage.backend for stage in self.stages}.values()
        return [backend for backend in opened if backend not in self.kept]

    def close(self) -> None:
        """Close models that were asked nothing; recorded texts would complain that none was used."""
        for backend in self.backends:
            if backend.remembers:
                backend.close()
