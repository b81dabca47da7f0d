"""A query's story: what reranking did to it, what was asked and answered, and how the order came about.

The method is driven once more with the answers of the run's ledger: no model is needed, and there is no second account
of what a method does. Stories and verdicts are JSON, as `r2llm inspect --json` prints them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..rerankers.accounting import total
from ..rerankers.answers.reading import Reply
from ..rerankers.api import open_model
from ..rerankers.asks import KINDS
from ..rerankers.backends.base import Backend, Request
from ..rerankers.backends.replay import LedgerReplay
from ..rerankers.cascade import Cascade, Stage
from ..rerankers.errors import InputError, R2llmError
from ..rerankers.ledger import Ledger
from ..rerankers.ranker import Ranker
from ..rerankers.types import Query
from .configs import load as configs
from .configs.load import Loaded
from .configs.schema import DataFiles
from .first_stage.retrieve import FirstStage, open_dataset, retrieve
from .io.files import json_lines
from .io.progress import Listener
from .preview import shown
from .run import costs, runfile
from .run import read as record
from .run.folder import LEDGER
from .run.fusion import RERANKED

TOP = 10
"""The documents of an order that a verdict is about."""

FATES = ("gained", "lost", "kept")
"""What befell a judged document of the top before or after."""

REPLAYED_TEXTS = (
    "the answers were replayed from recorded texts, of which no ledger is kept: the asks and how they were answered "
    "cannot be shown, only the order before and after"
)

Content = dict[str, Any]


def story(run_dir: Path, query_id: str, *, prompts: bool = False) -> Content:
    """Return the story of a query of a run; with `prompts`, each ask's prompt too.

    `texts` are those of all candidates; costs are those of the last execution; `notes` say what cannot be told, and
    `warnings` why the run as a whole is doubtful. Raises `InputError` if the folder holds no run, the run has no such
    query, or its dataset is not there.
    """
    run, notes = record.read(run_dir), list[str]()
    first, final, unfused = (_order(run_dir / name) for name in ("first_stage.trec", "run.trec", RERANKED))
    if query_id not in first:
        known = f"; the first is {next(iter(first))}" if first else ""
        raise InputError(f"{run_dir}: query {query_id} is not among the run's {len(first)}{known}")
    loaded = _loaded(run_dir, query_id)
    first_stage = retrieve(loaded, Listener())
    candidates = next(iter(first_stage))
    grades = (first_stage.dataset.qrels() or {}).get(query_id, {})
    asks, order = _asks(run, loaded, first_stage, notes, prompts=prompts)
    if not final:
        notes.append("there is no run.trec: the run is not finished")
    elif order and (unfused or final).get(query_id) != order:
        name = RERANKED if unfused else "run.trec"
        notes.append(f"{name} has another order than the ledger's answers give; r2llm verify says more")
    if any(ask.get("prompt_cut") is False for ask in asks):
        notes.append("no tokenizer is at hand, so prompts are shown whole: neither query nor passages are cut")
    docs = (not unfused and order) or final.get(query_id) or order
    before = {doc: rank for rank, doc in enumerate(first[query_id], 1)}
    rows = json_lines(run_dir / "costs.jsonl") if run.costs else ()
    spent = costs.by_stage(run_dir / "costs.jsonl", rows).get(query_id, [])
    cascade = len(loaded.stages) > 1
    stages = [
        {
            "ranker": {"method": ranker.method.name, "prompt": ranker.prompt.name, "scoring": ranker.scoring},
            "model": dict(stage.model or {}),
            **({"depth": stage.depth, "cost": cost and asdict(cost)} if cascade else {}),
        }
        for ranker, stage, cost in zip_longest(loaded.rankers, loaded.stages, spent)
    ]
    hits = enumerate(runfile.read(run_dir / "first_stage.trec")[0][query_id], 1)
    top = enumerate(docs[: getattr(loaded.rankers[-1].params, "k", TOP)], 1)
    return {
        "run_dir": str(run_dir),
        **_verdict(candidates.query, first[query_id], docs, grades, _measures(run).get(query_id, {})),
        **({"stages": stages} if cascade else stages[0]),
        "first_stage": [{"rank": rank, "doc": doc, "score": x, "grade": grades.get(doc)} for rank, (doc, x) in hits],
        "asks": asks,
        "moves": [{"rank": rank, "before": before.get(doc), "doc": doc, "grade": grades.get(doc)} for rank, doc in top],
        "cost": asdict(total(spent)) if spent else None,
        "notes": notes,
        "warnings": run.manifest.warnings,
        "texts": {doc.id: doc.text for doc in candidates.docs},
    }


def worst(run_dir: Path, count: int) -> Content:
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
    verdicts = []
    for id_ in sorted(losses, key=lambda query: losses[query])[:count]:
        query = queries.get(id_, Query(id_, ""))
        verdicts.append(_verdict(query, before.get(id_, []), after.get(id_, []), qrels.get(id_, {}), measured[id_]))
    return {"run_dir": str(run_dir), "worst": verdicts, "warnings": run.manifest.warnings}


def _verdict(
    query: Query,
    before: list[str],
    after: list[str],
    grades: Mapping[str, int],
    measures: Mapping[str, Sequence[float]],
) -> Content:
    """Return what reranking did to a query.

    `judged` are its judged documents in the top before or after, `missed` is the number of relevant ones that are no
    candidates, and `measures` are those before and after, none if the query is not judged or the run not finished.
    """
    ranks, final = ({doc: rank for rank, doc in enumerate(order, 1)} for order in (before, after))
    judged = list[Content]()
    for doc in dict.fromkeys([*after[:TOP], *before[:TOP]]):
        if doc in grades:
            gained, lost, _ = FATES
            fate = lost if doc not in after[:TOP] else gained if doc not in before[:TOP] else "kept"
            ends = {"before": ranks.get(doc), "after": final.get(doc)}
            judged.append({"doc": doc, "grade": grades[doc], **ends, "fate": fate})
    judged.sort(key=lambda each: (FATES.index(each["fate"]), -each["grade"]))
    missed = sum(grade > 0 and doc not in ranks for doc, grade in grades.items())
    return {"query": asdict(query), "measures": measures, "judged": judged, "missed": missed}


def _measures(run: record.Run) -> dict[str, dict[str, list[float]]]:
    if not run.metrics or not run.metrics.first_stage:
        return {}
    before = run.metrics.first_stage.per_query
    return {
        query: {name: [before[query][name], value] for name, value in values.items()}
        for query, values in run.metrics.per_query.items()
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
    run: record.Run, loaded: Loaded, first_stage: FirstStage, notes: list[str], *, prompts: bool
) -> tuple[list[Content], list[str]]:
    """Return the query's asks, and the ranking that they come to; none if the ledger does not lead there."""
    ledger, asks, order = run.run_dir / LEDGER, list[Content](), list[str]()
    if not all(options.remembers for options in loaded.models):
        notes.append(REPLAYED_TEXTS)
        return asks, order
    if not ledger.is_file():
        notes.append(f"there is no {LEDGER}, so the asks and their answers cannot be shown")
        return asks, order
    numbers: dict[bytes, int] = {}
    # The ledger of one stage holds one model's answers, also if the manifest has another name for it.
    identities = [stage.model for stage in run.manifest.stages] if len(loaded.stages) > 1 else [None]
    with ExitStack() as stack:
        replays = [stack.enter_context(closing(_Recording(ledger, identity))) for identity in identities]
        unused = stack.enter_context(closing(Ledger(None)))
        stages = list(map(Stage, loaded.rankers, replays, [stage.depth for stage in loaded.stages]))
        # One at a time and not pooled: every ask is put, in the method's order, also one that was put before.
        try:
            [ranked] = Cascade(stages, unused, pooled=False).rank(first_stage)
            order = list(ranked.ranking.docs)
        except R2llmError as error:
            notes.append(f"the story ends early: {error}")
        for stage, replay, ranker in zip(loaded.stages, replays, loaded.rankers, strict=True):
            renderer: Backend = replay
            if prompts:
                with suppress(R2llmError):  # the model's folder may be gone, or its server not there
                    grades, seed = first_stage.dataset.qrels(), loaded.config.seed
                    renderer = open_model(stage.model or {}, grades=grades, seed=seed, weights=False)
            for round_, request, reply in replay.answered:
                number = len(asks) + 1
                same_as = numbers.setdefault(request.key, number)
                where: Content = {"ask": number, "stage": replays.index(replay) + 1, "round": round_}
                where |= {"again": request.terms.attempt > 0, "same_as": same_as if same_as < number else None}
                asks.append(where | _asked(request, reply, ranker, replay))
                if prompts:
                    prompt, tokens = shown(request, renderer)
                    asks[-1] |= {"prompt": prompt, "prompt_cut": tokens is not None}
    return asks, order


def _asked(request: Request, reply: Reply, ranker: Ranker, replay: Backend) -> Content:
    """Return how an ask was presented, answered and read."""
    ask, labels, answer = request.ask, list(request.labels), ranker.read(request.ask, reply, replay)
    if not answer.parsed:
        read_as = f"unread: {ranker.options.on_unparsed}"
    elif KINDS[ask.kind].scores == "choice":
        read_as = ask.docs[answer.choice]
    elif KINDS[ask.kind].scores == "order":
        read_as = " > ".join(ask.docs[i] for i in answer.order)
    else:
        read_as = answer.note or " ".join(f"{score:.4f}" for score in answer.scores)
    labelled = len(labels) == len(ask.docs) and not isinstance(request.prompt.labels, dict)
    shown_as = labels if labelled else [None] * len(ask.docs)
    return {
        "kind": ask.kind,
        "docs": [{"label": label, "doc": doc} for label, doc in zip(shown_as, ask.docs, strict=True)],
        "labels": labels,
        "text": reply.text,
        "scores": reply.scores,
        "read_as": read_as,
        "parsed": answer.parsed,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }
