"""A query's story: what reranking did to it, what was asked and answered, and how the order came about.

The method is driven once more with the answers of the run's ledger: no model is needed, and there is no second account
of what a method does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, get_args

from ..rerankers.accounting import total
from ..rerankers.answers.reading import Reply
from ..rerankers.backends.base import Backend, Grades, Request
from ..rerankers.backends.replay import LedgerReplay
from ..rerankers.cascade import Cascade, Stage
from ..rerankers.errors import InputError, R2llmError
from ..rerankers.ledger import Ledger
from ..rerankers.types import Answer, Candidates, Cost, Query
from .configs import load as configs
from .configs.load import DataFiles, Loaded
from .first_stage.retrieve import open_dataset, retrieve
from .io.files import json_lines
from .io.progress import Listener
from .preview import Shown, open_without_weights, shown
from .run import costs, manifest, runfile
from .run import read as record
from .run.fusion import RERANKED

LEDGER = "ledger.sqlite"

TOP = 10
"""The documents of an order that a verdict is about."""

Fate = Literal["gained", "lost", "kept"]

FATES: tuple[Fate, ...] = get_args(Fate)

REPLAYED_TEXTS = (
    "the answers were replayed from recorded texts, of which no ledger is kept: the asks and how they were answered "
    "cannot be shown, only the order before and after"
)

Measures = Mapping[str, tuple[float, float]]
"""Each measure of a query before and after reranking."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged document of the top before or after: its ranks, None outside the candidates, and what befell it."""

    doc: str
    grade: int
    before: int | None
    after: int | None
    fate: Fate


@dataclass(frozen=True)
class Verdict:
    """What reranking did to a query. `measures` is empty if it is not judged, or the run is not finished."""

    query: Query
    measures: Measures
    judged: Sequence[Judged]
    """Gained, lost, kept; the better grades first."""
    missed: int
    """Relevant documents that are no candidates."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An ask as it was put and answered."""

    stage: int
    """From 1, as `round` is."""
    round: int
    request: Request
    reply: Reply
    answer: Answer
    same_as: int | None
    """The number of the first ask of this query that was the same: pooled, the model answers it once."""
    unread: str
    """What the ranker does about an answer that cannot be read: its `on_unparsed`."""
    prompt: Shown | None = None

    @property
    def again(self) -> bool:
        """Whether it repeats an ask whose answer could not be read."""
        return self.request.terms.attempt > 0

    @property
    def content(self) -> dict[str, Any]:
        """The ask in JSON: how it was presented, answered and read."""
        ask, reply, labels = self.request.ask, self.reply, list(self.request.labels)
        labelled = len(labels) == len(ask.docs) and not isinstance(self.request.prompt.labels, dict)
        names = labels if labelled else [None] * len(ask.docs)
        return {
            "stage": self.stage,
            "round": self.round,
            "again": self.again,
            "same_as": self.same_as,
            "kind": ask.kind,
            "docs": [{"label": label, "doc": doc} for label, doc in zip(names, ask.docs, strict=True)],
            "labels": labels,
            "text": reply.text,
            "scores": None if reply.scores is None else list(reply.scores),
            "read_as": self._read_as(),
            "parsed": self.answer.parsed,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            **({"prompt": self.prompt.text, "prompt_cut": self.prompt.tokens is not None} if self.prompt else {}),
        }

    def _read_as(self) -> str:
        ask, answer = self.request.ask, self.answer
        if not answer.parsed:
            return f"unread: {self.unread}"
        if ask.kind in ("choose", "compare"):
            return ask.docs[answer.choice]
        if ask.kind in ("permute", "select"):
            return " > ".join(ask.docs[i] for i in answer.order)
        return answer.note or " ".join(f"{score:.4f}" for score in answer.scores)


@dataclass(frozen=True, slots=True)
class Move:
    """A document's rank in the final order and in the first stage, and its grade."""

    rank: int
    before: int | None
    doc: str
    grade: int | None


@dataclass(frozen=True)
class Story:
    """All there is to tell of a query."""

    run_dir: Path
    verdict: Verdict
    stages: Sequence[Mapping[str, Any]]
    """Of each stage `ranker`, `model`, `depth` (None: all documents) and `cost`, that of the last execution."""
    first_stage: Sequence[tuple[str, float]]
    grades: Mapping[str, int]
    asks: Sequence[Asked]
    moves: Sequence[Move]
    texts: Mapping[str, str]
    """Those of all candidates, whole."""
    cost: Cost | None
    """That of the last execution, all stages together."""
    notes: Sequence[str]
    """What cannot be told, and what is not as it should be."""
    warnings: Sequence[str]
    """Why the run as a whole is doubtful."""

    @property
    def content(self) -> dict[str, Any]:
        """The story in JSON."""
        hits = [{"doc": doc, "score": score, "grade": self.grades.get(doc)} for doc, score in self.first_stage]
        return {
            "run_dir": str(self.run_dir),
            **asdict(self.verdict),
            **({"stages": self.stages} if len(self.stages) > 1 else self.stages[0]),
            "first_stage": [{"rank": rank, **hit} for rank, hit in enumerate(hits, 1)],
            "asks": [{"ask": number, **asked.content} for number, asked in enumerate(self.asks, 1)],
            "moves": [asdict(move) for move in self.moves],
            "cost": asdict(self.cost) if self.cost else None,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def story(run_dir: Path, query_id: str, *, prompts: bool = False) -> Story:
    """Return the story of a query of a run; with `prompts`, each ask's prompt too.

    Raises `InputError` if the folder holds no run, the run has no such query, or its dataset is not there.
    """
    run, notes = record.read(run_dir), list[str]()
    first, final, unfused = (_order(run_dir / name) for name in ("first_stage.trec", "run.trec", RERANKED))
    if query_id not in first:
        known = f"; the first is {next(iter(first))}" if first else ""
        raise InputError(f"{run_dir}: query {query_id} is not among the run's {len(first)}{known}")
    loaded = _loaded(run_dir, query_id)
    first_stage = retrieve(loaded, Listener())
    candidates, qrels = next(iter(first_stage)), first_stage.dataset.qrels()
    grades = (qrels or {}).get(query_id, {})
    asks, order = _asks(run, loaded, candidates, qrels if prompts else None, notes, prompts=prompts)
    if not final:
        notes.append("there is no run.trec: the run is not finished")
    elif order and (unfused or final).get(query_id) != order:
        name = RERANKED if unfused else "run.trec"
        notes.append(f"{name} has another order than the ledger's answers give; r2llm verify says more")
    if any(asked.prompt and asked.prompt.tokens is None for asked in asks):
        notes.append("no tokenizer is at hand, so prompts are shown whole: neither query nor passages are cut")
    docs = (not unfused and order) or final.get(query_id) or order
    before = {doc: rank for rank, doc in enumerate(first[query_id], 1)}
    rows = json_lines(run_dir / "costs.jsonl") if run.costs else ()
    spent = costs.by_stage(run_dir / "costs.jsonl", rows).get(query_id, [])
    top = getattr(loaded.rankers[-1].params, "k", TOP)
    return Story(
        run_dir=run_dir,
        verdict=_verdict(candidates.query, first[query_id], docs, grades, _measures(run).get(query_id, {})),
        stages=[
            {
                "ranker": {"method": ranker.method.name, "prompt": ranker.prompt.name, "scoring": ranker.scoring},
                "model": dict(stage.model or {}),
                **({"depth": stage.depth, "cost": cost and asdict(cost)} if len(loaded.stages) > 1 else {}),
            }
            for ranker, stage, cost in zip_longest(loaded.rankers, loaded.stages, spent)
        ],
        first_stage=runfile.read(run_dir / "first_stage.trec")[0][query_id],
        grades=grades,
        asks=asks,
        moves=[Move(rank, before.get(doc), doc, grades.get(doc)) for rank, doc in enumerate(docs[:top], 1)],
        texts={doc.id: doc.text for doc in candidates.docs},
        cost=total(spent) if spent else None,
        notes=notes,
        warnings=run.manifest.get("warnings", ()),
    )


def worst(run_dir: Path, count: int) -> tuple[list[Verdict], Sequence[str]]:
    """Return the verdicts on the queries whose first measure lost most, and the run's warnings.

    Raises `InputError` if the run has no measures before and after, or its dataset is not there.
    """
    run = record.read(run_dir)
    measured = _measures(run)
    if not measured:
        raise InputError(f"{run_dir}: holds no measures before and after reranking, so no query is worse than another")
    losses = {query: after - before for query, each in measured.items() for before, after in [*each.values()][:1]}
    dataset = open_dataset(configs.load(str((run_dir / "config.yaml").resolve())))
    queries, qrels = dataset.queries(), dataset.qrels() or {}
    before, after = (_order(run_dir / name) for name in ("first_stage.trec", "run.trec"))
    verdicts = [
        _verdict(
            queries.get(id_, Query(id_, "")), before.get(id_, ()), after.get(id_, ()), qrels.get(id_, {}), measured[id_]
        )
        for id_ in sorted(losses, key=lambda query: losses[query])[:count]
    ]
    return verdicts, run.manifest.get("warnings", ())


def _verdict(
    query: Query, before: Sequence[str], after: Sequence[str], grades: Mapping[str, int], measures: Measures
) -> Verdict:
    ranks, final = ({doc: rank for rank, doc in enumerate(order, 1)} for order in (before, after))
    judged = []
    for doc in dict.fromkeys([*after[:TOP], *before[:TOP]]):
        if doc in grades:
            fate: Fate = (
                "kept" if doc in before[:TOP] and doc in after[:TOP] else "gained" if doc in after[:TOP] else "lost"
            )
            judged.append(Judged(doc, grades[doc], ranks.get(doc), final.get(doc), fate))
    judged.sort(key=lambda each: (FATES.index(each.fate), -each.grade))
    return Verdict(query, measures, judged, sum(grade > 0 and doc not in ranks for doc, grade in grades.items()))


def _measures(run: record.Record) -> dict[str, Measures]:
    with record.shown(run.path):
        before = run.metrics.get("first_stage", {}).get("per_query", {})
        return {
            query: {name: (float(before[query][name]), float(value)) for name, value in values.items()}
            for query, values in run.metrics.get("per_query", {}).items()
            if values and query in before
        }


def _order(path: Path) -> dict[str, list[str]]:
    """Return each query's documents in a run file, best first; none if there is no such file."""
    run = runfile.read(path)[0] if path.is_file() else {}
    return {query: [doc for doc, _ in hits] for query, hits in run.items()}


def _loaded(run_dir: Path, query_id: str) -> Loaded:
    """Return the run's config for this query alone, with the run's own first stage, so that nothing is searched."""
    path = run_dir.resolve()
    loaded = configs.load(str(path / "config.yaml")).of_query(query_id)
    if isinstance(loaded.config.dataset, DataFiles) and loaded.config.dataset.docs == "index":
        return loaded  # the index of its first stage has the texts
    update = {"bm25": None, "run": str(path / "first_stage.trec")}
    first_stage = loaded.config.first_stage.model_copy(update=update)
    return dataclasses.replace(loaded, config=loaded.config.model_copy(update={"first_stage": first_stage}))


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
        """Answer one at a time, so that a run that was cut off is told as far as it came."""
        self.waiting, later = self.waiting[:1], self.waiting[1:]
        answered = super().collect()
        self.waiting = later
        self.answered += [(self.rounds, *row) for row in answered]
        return answered


def _asks(
    run: record.Record,
    loaded: Loaded,
    candidates: Candidates,
    grades: Grades | None,
    notes: list[str],
    *,
    prompts: bool,
) -> tuple[list[Asked], list[str]]:
    """Return the query's asks, and the ranking that they come to; none if the ledger does not lead there."""
    ledger = run.path / LEDGER
    if not all(options.remembers for options in loaded.models):
        notes.append(REPLAYED_TEXTS)
        return [], []
    if not ledger.is_file():
        notes.append(f"there is no {LEDGER}, so the asks and their answers cannot be shown")
        return [], []
    asks: list[Asked] = []
    order: list[str] = []
    numbers: dict[bytes, int] = {}
    recorded = manifest.stages(run.manifest["experiment"])
    # The ledger of one stage holds one model's answers, also if the manifest has another name for it.
    identities = [stage["model"] for stage in recorded] if len(loaded.stages) > 1 else [None]
    with ExitStack() as stack:
        replays = [stack.enter_context(closing(_Recording(ledger, identity))) for identity in identities]
        unused = stack.enter_context(closing(Ledger(None)))
        stages = [
            Stage(*row) for row in zip(loaded.rankers, replays, [each.depth for each in loaded.stages], strict=True)
        ]
        # One at a time and not pooled: every ask is put, in the method's order, also one that was put before.
        try:
            [ranked] = Cascade(stages, unused, pooled=False).rank([candidates])
            order = list(ranked.ranking.docs)
        except R2llmError as error:
            notes.append(f"the story ends early: {error}")
        for stage, (replay, ranker) in enumerate(zip(replays, loaded.rankers, strict=True), 1):
            renderer: Backend = replay
            if prompts:
                with suppress(R2llmError):  # the model's folder may be gone, or its server not there
                    renderer = open_without_weights(loaded.stages[stage - 1], grades, loaded.config.seed)
            for round_, request, reply in replay.answered:
                first = numbers.setdefault(request.key, len(asks) + 1)
                same_as = first if first <= len(asks) else None
                prompt = shown(request, renderer) if prompts else None
                answer = ranker.read(request.ask, reply, replay)
                asks.append(Asked(stage, round_, request, reply, answer, same_as, ranker.options.on_unparsed, prompt))
    return asks, order
