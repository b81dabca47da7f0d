"""A query's story: what the first stage found, what was asked and answered, and how the order came about.

The method is driven once more with the answers of the run's own ledger: no model is needed, and there is no second
account of what a method does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from ..rerankers.answers.reading import Reply
from ..rerankers.backends.base import Request
from ..rerankers.backends.replay import LedgerReplay
from ..rerankers.cascade import Cascade, Stage
from ..rerankers.errors import InputError, R2llmError
from ..rerankers.ledger import Ledger
from ..rerankers.ranker import Ranker
from ..rerankers.types import Answer, Candidates, Cost, Query
from .configs import load as configs
from .configs.load import DataFiles, Loaded
from .first_stage.retrieve import FirstStage, retrieve
from .fusion import RERANKED
from .preview import Shown, open_without_weights, shown
from .progress import Listener
from .run import costs, manifest, runfile
from .run import read as record
from .run.verdicts import TOP, Verdict, verdict

LEDGER = "ledger.sqlite"

REPLAYED_TEXTS = (
    "the answers were replayed from recorded texts, of which no ledger is kept: the asks and how they were answered "
    "cannot be shown, only the order before and after"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """An ask as it was put and answered."""

    stage: int
    """Which stage of reranking put it, from 1."""
    round: int
    request: Request
    reply: Reply
    answer: Answer
    same_as: int | None
    """The earlier ask of this query, counted from 1, that was the same: pooled, the model answers it once."""

    prompt: Shown | None = None

    @property
    def retried(self) -> bool:
        """Whether it is asked again, because the answer before could not be read."""
        return self.request.terms.attempt > 0


@dataclass(frozen=True, slots=True)
class Move:
    """Where a document stands in the final order, and where it stood in the first stage."""

    rank: int
    before: int | None
    doc: str
    grade: int | None


@dataclass(frozen=True, slots=True)
class StageTold:
    """A stage of reranking: who asked whom, about how many documents (None: all), and at what cost."""

    ranker: Ranker
    model: Mapping[str, object]
    depth: int | None
    cost: Cost | None
    """What the last execution counted."""


@dataclass(frozen=True)
class Story:
    """All there is to tell of a query."""

    run_dir: Path
    query: Query
    verdict: Verdict
    stages: Sequence[StageTold]
    first_stage: Sequence[tuple[str, float]]
    grades: Mapping[str, int]
    asks: Sequence[Asked]
    moves: Sequence[Move]
    texts: Mapping[str, str]
    """Those of all candidates, whole."""
    cost: Cost | None
    """What the last execution counted, all stages together."""

    notes: Sequence[str]
    """What cannot be told, and what is not as it should be."""

    warnings: Sequence[str]
    """Why the run as a whole is doubtful."""


def story(run_dir: Path, query_id: str, *, prompts: bool = False) -> Story:
    """The story of a query of a run; with `prompts`, each ask's prompt too.

    Raises `InputError` where the folder holds no run, the run has no such query, or its dataset is not there.
    """
    found = _first_stage(run_dir, query_id)
    loaded = _loaded(run_dir, query_id)
    first_stage = retrieve(loaded, Listener())
    candidates = next(iter(first_stage))
    notes: list[str] = []
    asks, order = _asked(run_dir, loaded, candidates, notes)
    final = _final(run_dir, query_id, order, notes)
    about = manifest.read(run_dir / manifest.NAME) if (run_dir / manifest.NAME).is_file() else {}
    if prompts and asks:
        asks = _with_prompts(asks, loaded, first_stage, run_dir)
        if any(asked.prompt and asked.prompt.tokens is None for asked in asks):
            notes.append("no tokenizer is at hand, so prompts are shown whole: neither query nor passages are cut")
    grades = (first_stage.dataset.qrels() or {}).get(query_id, {})
    ranks = {doc: rank for rank, (doc, _) in enumerate(found, 1)}
    rankers = loaded.rankers
    top = final[: getattr(rankers[-1].params, "k", TOP)]
    total, each = _costs(run_dir / "costs.jsonl", query_id, len(rankers))
    return Story(
        run_dir=run_dir,
        query=candidates.query,
        verdict=verdict(candidates.query, list(ranks), final, grades, run_dir),
        stages=[
            StageTold(ranker, stage.model or {}, stage.depth, cost)
            for ranker, stage, cost in zip(rankers, loaded.stages, each, strict=True)
        ],
        first_stage=found,
        grades=grades,
        asks=asks,
        moves=[Move(rank, ranks.get(doc), doc, grades.get(doc)) for rank, doc in enumerate(top, 1)],
        texts={doc.id: doc.text for doc in candidates.docs},
        cost=total,
        notes=notes,
        warnings=about.get("warnings", ()),
    )


class _Recording(LedgerReplay):
    """A replay that remembers what it was asked, and in which round."""

    def __init__(self, path: Path, of: Mapping[str, object] | None) -> None:
        super().__init__(path, of)
        self.rounds = 0
        self.answered: list[tuple[int, Request, Reply]] = []

    def submit(self, requests: Sequence[Request]) -> None:
        """Take a round's requests, or those that are made again because an answer could not be read."""
        self.rounds += any(not request.terms.attempt for request in requests)
        super().submit(requests)

    def collect(self) -> list[tuple[Request, Reply]]:
        """Answer one at a time, so that of a run that was cut off all is told that there is."""
        later = self.waiting[1:]
        self.waiting = self.waiting[:1]
        found = super().collect()
        self.waiting = later
        self.answered += [(self.rounds, *row) for row in found]
        return found


def _first_stage(run_dir: Path, query_id: str) -> Sequence[tuple[str, float]]:
    """The documents that the first stage found for the query, with their scores, best first."""
    for name in ("config.yaml", "first_stage.trec"):
        if not (run_dir / name).is_file():
            raise InputError(f"{run_dir}: no run's folder: there is no {name} in it; r2llm rerank makes one")
    run, _ = runfile.read(run_dir / "first_stage.trec")
    if query_id not in run:
        raise InputError(
            f"{run_dir}: query {query_id} is not among the run's {len(run)}; the first is {next(iter(run))}"
        )
    return run[query_id]


def _loaded(run_dir: Path, query_id: str) -> Loaded:
    """The run's config for this query alone, with the run's own first stage, so that nothing is searched again."""
    path = run_dir.resolve()
    loaded = configs.load(str(path / "config.yaml")).of_query(query_id)
    if isinstance(loaded.config.dataset, DataFiles) and loaded.config.dataset.docs == "index":
        return loaded  # the index of its first stage has the texts
    given = {"bm25": None, "run": str(path / "first_stage.trec")}
    first_stage = loaded.config.first_stage.model_copy(update=given)
    return dataclasses.replace(loaded, config=loaded.config.model_copy(update={"first_stage": first_stage}))


def _asked(
    run_dir: Path, loaded: Loaded, candidates: Candidates, notes: list[str]
) -> tuple[list[Asked], tuple[str, ...] | None]:
    """The query's asks in order, and the ranking that they come to; None where the ledger does not lead there."""
    if not all(options.remembers for options in loaded.models):
        notes.append(REPLAYED_TEXTS)
        return [], None
    ledger = run_dir / LEDGER
    if not ledger.is_file():
        notes.append(f"there is no {LEDGER}, so the asks and their answers cannot be shown")
        return [], None
    order = None
    with ExitStack() as stack:
        unused = stack.enter_context(closing(Ledger(None)))
        replays = [
            stack.enter_context(closing(_Recording(ledger, identity)))
            for identity in _identities(run_dir, len(loaded.stages))
        ]
        stages = [
            Stage(ranker, replay, stage.depth)
            for ranker, replay, stage in zip(loaded.rankers, replays, loaded.stages, strict=True)
        ]
        # One at a time and not pooled: every ask is put, in the method's order, also one that was put before.
        try:
            [ranked] = Cascade(stages, unused, pooled=False).rank([candidates])
            order = ranked.ranking.docs
        except R2llmError as error:
            notes.append(f"the story ends early: {error}")
        return _numbered(replays, loaded.rankers), order


def _identities(run_dir: Path, stages: int) -> Sequence[Mapping[str, object] | None]:
    """Which of the ledger's models answered in each stage, as the manifest has it; of one stage it has one model."""
    if stages == 1:
        return [None]
    content = record.read(run_dir).manifest
    return [stage["model"] for stage in manifest.stages(content["experiment"])]


def _numbered(replays: Sequence[_Recording], rankers: Sequence[Ranker]) -> list[Asked]:
    first: dict[bytes, int] = {}
    asks: list[Asked] = []
    for stage, (replay, ranker) in enumerate(zip(replays, rankers, strict=True), 1):
        for round_, request, reply in replay.answered:
            number = len(asks) + 1
            earlier = first.setdefault(request.key, number)
            answer = ranker.read(request.ask, reply, replay)
            asks.append(Asked(stage, round_, request, reply, answer, earlier if earlier < number else None))
    return asks


def _final(run_dir: Path, query_id: str, order: Sequence[str] | None, notes: list[str]) -> Sequence[str]:
    """The order that the answers come to, or else the one that the run file has; where it was fused, only that."""
    unfused = RERANKED if (run_dir / RERANKED).is_file() else "run.trec"
    written, before = (_written(run_dir / name, query_id) for name in ("run.trec", unfused))
    if written is None:
        notes.append("there is no run.trec: the run is not finished")
    elif order is not None and before != list(order):
        notes.append(f"{unfused} has another order than the ledger's answers give; r2llm verify says more")
    found = (written or order) if unfused == RERANKED else (order or written)
    return found or []


def _written(path: Path, query_id: str) -> list[str] | None:
    return [doc for doc, _ in runfile.read(path)[0].get(query_id, ())] if path.is_file() else None


def _with_prompts(asks: Sequence[Asked], loaded: Loaded, first_stage: FirstStage, run_dir: Path) -> list[Asked]:
    """The asks with their prompts: as the model read them where its tokenizer is at hand, else whole."""
    told = []
    for number, (stage, identity) in enumerate(
        zip(loaded.stages, _identities(run_dir, len(loaded.stages)), strict=True), 1
    ):
        own = [asked for asked in asks if asked.stage == number]
        try:
            backend = open_without_weights(stage, first_stage.dataset.qrels(), loaded.config.seed)
            prompts = [shown(asked.request, backend) for asked in own]
        except R2llmError:  # the model's folder may be gone, or its server not there
            with closing(LedgerReplay(run_dir / LEDGER, identity)) as replay:
                prompts = [shown(asked.request, replay) for asked in own]
        told += [dataclasses.replace(asked, prompt=prompt) for asked, prompt in zip(own, prompts, strict=True)]
    return told


def _costs(path: Path, query_id: str, stages: int) -> tuple[Cost | None, Sequence[Cost | None]]:
    """What the query cost in all, and in each stage."""
    found = zip(costs.read(path), costs.read_stages(path), strict=True) if path.is_file() else ()
    for cost, each in found:
        if cost.query_id == query_id:
            return cost, each or [cost]
    return None, [None] * stages
