"""A query's prompts and answers: what a model would be asked, and what it was asked and made of the order.

A preview is a run's first request, not sent. A story drives the method once more with the answers of the run's ledger:
no model is needed, and there is no second account of what a method does. All is JSON, as `--json` prints it.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..rerankers.accounting import total
from ..rerankers.answers.reading import Reply, describe
from ..rerankers.api import open_model
from ..rerankers.asks import KINDS
from ..rerankers.backends._tokens.tokens import Tokens
from ..rerankers.backends.base import Backend, Request
from ..rerankers.backends.replay import LedgerReplay
from ..rerankers.cascade import Cascade
from ..rerankers.cascade import first as first_of
from ..rerankers.errors import InputError, R2llmError
from ..rerankers.ledger import Ledger
from ..rerankers.prompts.template import SEAM
from ..rerankers.ranker import Ranker, Requests
from ..rerankers.types import Answer, Query
from .configs import load as configs
from .configs.load import Loaded
from .configs.schema import DataFiles
from .first_stage.retrieve import FirstStage, open_dataset, retrieve
from .io.progress import Listener
from .run import plan as planning
from .run import read as record
from .run import runfile
from .run.folder import LEDGER
from .run.fusion import RERANKED
from .run.manifest import Manifest

TOP = 10
"""The documents of an order that a verdict is about."""

FATES = ("gained", "lost", "kept")
"""Fates of a judged document of the top before or after."""

REPLAYED_TEXTS = (
    "the answers were replayed from recorded texts, of which no ledger is kept: the asks and how they were answered "
    "cannot be shown, only the order before and after"
)

Content = dict[str, Any]


def preview(name: str, settings: Sequence[str], query_id: str, listener: Listener, stage: int = 1) -> Content:
    """Return what the config's model would be sent for the first ask of a query in a stage; no weights are loaded.

    It is JSON, as `r2llm prompt --json` prints it. Later stages are shown the first stage's order. A prompt longer than
    `prompt_tokens_limit` loses its end. The answer is made to begin with `answer_prefix`: the first words of a decoder,
    or of a decoder-only model the end of the prompt. Raises `InputError` if there is no such query or stage, or nothing
    is asked about the query's candidates.
    """
    loaded = configs.load_noting(name, settings, None, listener).of_query(query_id)
    if not 1 <= stage <= len(loaded.stages):
        raise InputError(f"--stage {stage}: config {loaded.config.name} has {len(loaded.stages)} stages")
    ranker, chosen = loaded.rankers[stage - 1], loaded.stages[stage - 1]
    first_stage = retrieve(loaded, listener)
    candidates, grades = first_of(next(iter(first_stage)), chosen.depth), first_stage.dataset.qrels()
    backend = open_model(chosen.model or {}, grades=grades, seed=loaded.config.seed, weights=False)
    requests, steps = Requests(ranker, backend, candidates), ranker.steps(candidates)
    try:
        asks = next(steps)
        while all(ask.kind == "derive" for ask in asks):
            asks = steps.send([Answer(note=requests.derive(ask)) for ask in asks])
    except StopIteration:
        fault = f"{ranker.method.name} asks nothing about its {len(candidates.docs)} candidates"
        raise InputError(f"query {query_id}: {fault}; choose another query or method") from None
    request, tokens = requests.request(asks[0]), backend.tokens
    decoding, prefix = request.terms.decoding, request.prompt.answer.prefix
    encoder_decoder = backend.architecture == "encoder_decoder"
    return {
        "query": asdict(request.query),
        "method": ranker.method.name,
        "prompt": request.prompt.name,
        "architecture": backend.architecture,
        "kind": request.ask.kind,
        "docs": request.ask.docs,
        "asks_in_round": len(asks),
        "shown": dict(zip(("text", "tokens"), shown(request, backend), strict=True)),
        "prompt_tokens_limit": decoding.prompt_tokens,
        "answer_prefix": prefix.encoder_decoder if encoder_decoder else prefix.decoder_only,
        "prefix_tokens": tuple(tokens.decoder_prefix(request)) if tokens and encoder_decoder else None,
        "labels": _labels(request, tokens),
        "scoring": request.scoring,
        "max_new_tokens": (tokens.answer_tokens(request) if tokens else decoding.max_new_tokens)
        if request.generates
        else None,
        "reading": _reading(request, ranker, backend),
        "on_unparsed": ranker.options.on_unparsed,
        "stage": stage,
        "stages": len(loaded.stages),
    }


def shown(request: Request, backend: Backend) -> tuple[str, list[int] | None]:
    """Return the prompt as the model reads it, after the chat template, and its tokens; else the messages, uncut.

    The seams that disarm control tokens in texts are left out.
    """
    if backend.tokens is None:
        messages = request.rendered(lambda text, _: text, backend.architecture)
        return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages), None
    text, ids = backend.tokens.prompt(request)
    return text.replace(SEAM, ""), list(ids)


def _labels(request: Request, tokens: Tokens | None) -> list[Content]:
    """Return each possible answer, its meaning, and the tokens at which its log-probability is read, if it is."""
    values, ids = request.prompt.labels, tuple[tuple[int, ...], ...]([()] * len(request.labels))
    meanings = [f"{value:g}" for value in values.values()] if isinstance(values, dict) else request.ask.docs
    if tokens and request.scoring == "likelihood" and request.labels and request.prompt.target is None:
        ids = tokens.label_ids(request, tokens.prompt(request)[0])
    names = ("label", "meaning", "tokens")
    return [dict(zip(names, row, strict=True)) for row in zip(request.labels, meanings, ids, strict=False)]


def _reading(request: Request, ranker: Ranker, backend: Backend) -> str:
    """Return how the answer is read, in words."""
    outcome = KINDS[request.ask.kind].outcome
    if request.ask.kind == "relevance":
        return outcome
    if request.prompt.target is not None:
        over = f" over its {len(backend.tokens.target(request))} tokens" if backend.tokens else ""
        return f"the log-probability of {request.prompt.target.format(query='the query')} as the answer, summed{over}"
    if request.scoring == "likelihood" and request.prompt.answer.scored == "after_thought":
        return f"the labels' log-probabilities at the last token of a generated text; {outcome}"
    if request.scoring == "likelihood" and request.prompt.answer.scored == "logit":
        return "the labels' logits where the answer begins; the score is their sum, each times its label's value"
    if request.scoring == "likelihood":
        how = "the sum over all a label's tokens" if request.prompt.answer.scored == "whole" else "in one forward pass"
        return f"the labels' log-probabilities where the answer begins, {how}; {outcome}"
    return f"generated text{describe(request.ask.kind, ranker.reading(request.ask, backend))}"


def story(run_dir: Path, query_id: str, *, prompts: bool = False) -> Content:
    """Return the story of a query of a run; with `prompts`, each ask's prompt too.

    `texts` are those of all candidates; costs are those of the last execution; `notes` say what cannot be told, and
    `warnings` why the run as a whole is doubtful. Raises `InputError` if the folder holds no run, the run has no such
    query, or its dataset is not there.
    """
    run, notes = record.read(run_dir), list[str]()
    first, final, unfused = (_scored(run_dir / name) for name in ("first_stage.trec", "run.trec", RERANKED))
    if query_id not in first:
        known = f"; the first is {next(iter(first))}" if first else ""
        raise InputError(f"{run_dir}: query {query_id} is not among the run's {len(first)}{known}")
    loaded = config_of(run_dir).of_query(query_id)
    first_stage = retrieve(loaded, Listener())
    candidates = next(iter(first_stage))
    grades = (first_stage.dataset.qrels() or {}).get(query_id, {})
    asks, order = _asks(run, loaded, first_stage, notes, prompts=prompts)
    if not final:
        notes.append("there is no run.trec: the run is not finished")
    elif order and _docs(unfused or final, query_id) != order:
        name = RERANKED if unfused else "run.trec"
        notes.append(f"{name} has another order than the ledger's answers give; r2llm verify says more")
    if any(ask.get("prompt_cut") is False for ask in asks):
        notes.append("no tokenizer is at hand, so prompts are shown whole: neither query nor passages are cut")
    before, after = _docs(first, query_id), (not unfused and order) or _docs(final, query_id) or order
    spent = run.spent.get(query_id, [])
    cascade = len(loaded.stages) > 1
    stages = [
        {
            "ranker": {"method": ranker.method.name, "prompt": ranker.prompt.name, "scoring": ranker.scoring},
            "model": dict(stage.model or {}),
            **({"depth": stage.depth, "cost": cost and asdict(cost)} if cascade else {}),
        }
        for ranker, stage, cost in zip_longest(loaded.rankers, loaded.stages, spent)
    ]
    ranks = {doc: rank for rank, doc in enumerate(before, 1)}
    top = enumerate(after[: getattr(loaded.rankers[-1].params, "k", TOP)], 1)
    return {
        "run_dir": str(run_dir),
        **_verdict(candidates.query, before, after, grades, _measures(run).get(query_id, {})),
        **({"stages": stages} if cascade else stages[0]),
        "first_stage": [
            {"rank": ranks[doc], "doc": doc, "score": score, "grade": grades.get(doc)} for doc, score in first[query_id]
        ],
        "asks": asks,
        "moves": [{"rank": rank, "before": ranks.get(doc), "doc": doc, "grade": grades.get(doc)} for rank, doc in top],
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
    losses = {query: after - before for query, values in measured.items() for before, after in [*values.values()][:1]}
    dataset = open_dataset(configs.of_run(run_dir))
    queries, qrels = dataset.queries(), dataset.qrels() or {}
    before, after = (_scored(run_dir / name) for name in ("first_stage.trec", "run.trec"))
    verdicts = [
        _verdict(
            queries.get(id_, Query(id_, "")), _docs(before, id_), _docs(after, id_), qrels.get(id_, {}), measured[id_]
        )
        for id_ in sorted(losses, key=losses.__getitem__)[:count]
    ]
    return {"run_dir": str(run_dir), "worst": verdicts, "warnings": run.manifest.warnings}


def _verdict(
    query: Query,
    before: Sequence[str],
    after: Sequence[str],
    grades: Mapping[str, int],
    measures: Mapping[str, Sequence[float]],
) -> Content:
    """Return what reranking did to a query.

    `judged` are its judged documents in the top before or after, `missed` is the number of relevant ones that are no
    candidates, and `measures` are those before and after, none if the query is not judged or the run not finished.
    """
    ranks, final = ({doc: rank for rank, doc in enumerate(order, 1)} for order in (before, after))
    gained, lost, kept = FATES
    judged: list[Content] = [
        {
            "doc": doc,
            "grade": grades[doc],
            "before": ranks.get(doc),
            "after": final.get(doc),
            "fate": lost if doc not in after[:TOP] else gained if doc not in before[:TOP] else kept,
        }
        for doc in dict.fromkeys([*after[:TOP], *before[:TOP]])
        if doc in grades
    ]
    judged.sort(key=lambda row: (FATES.index(row["fate"]), -row["grade"]))
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


def _scored(path: Path) -> runfile.Run:
    """Return a run file's run; {} if there is no such file."""
    return runfile.read(path)[0] if path.is_file() else {}


def _docs(run: runfile.Run, query_id: str) -> list[str]:
    """Return a query's documents, best first."""
    return [doc for doc, _ in run.get(query_id, ())]


def config_of(run_dir: Path) -> Loaded:
    """Return the run's config with the run's own first stage, so that nothing is searched."""
    path = run_dir.resolve()
    loaded = configs.of_run(path)
    if isinstance(loaded.config.dataset, DataFiles) and loaded.config.dataset.docs == "index":
        return loaded  # the index of its first stage has the texts
    update = {"bm25": None, "run": str(path / "first_stage.trec")}
    first_stage = loaded.config.first_stage.model_copy(update=update)
    return dataclasses.replace(loaded, config=loaded.config.model_copy(update={"first_stage": first_stage}))


class Recording(LedgerReplay):
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


@contextmanager
def replaying(
    run_dir: Path, about: Manifest, loaded: Loaded, count: int | None = None
) -> Iterator[tuple[Cascade, list[Recording]]]:
    """Open all stages of a run, or so many, to be driven once more by its ledger's answers, without a model.

    Raises `InputError` if no ledger has them.
    """
    path = run_dir / LEDGER
    if not all(options.remembers for options in loaded.models):
        raise InputError(REPLAYED_TEXTS)
    if not path.is_file():
        raise InputError(f"there is no {LEDGER} in {run_dir}, so the asks and their answers cannot be shown")
    # The ledger of one stage holds one model's answers, also if the manifest has another name for it.
    identities = [stage.model for stage in about.stages] if len(loaded.stages) > 1 else [None]
    with ExitStack() as stack:
        replays = [stack.enter_context(closing(Recording(path, identity))) for identity in identities[:count]]
        unused = stack.enter_context(closing(Ledger(None)))
        # One query at a time: every ask is put, in the method's order, also one that was put before.
        yield Cascade(planning.stages(loaded, replays), unused, pooled=False), replays


def _asks(
    run: record.Run, loaded: Loaded, first_stage: FirstStage, notes: list[str], *, prompts: bool
) -> tuple[list[Content], list[str]]:
    """Return the query's asks, and the ranking that they come to; none if the ledger does not lead there."""
    asks, order, numbers = list[Content](), list[str](), dict[bytes, int]()
    with ExitStack() as stack:
        try:
            cascade, replays = stack.enter_context(replaying(run.run_dir, run.manifest, loaded))
        except InputError as error:
            notes.append(str(error))
            return asks, order
        try:
            [ranked] = cascade.rank(first_stage)
            order = list(ranked.ranking.docs)
        except R2llmError as error:
            notes.append(f"the story ends early: {error}")
        for number, (stage, replay, ranker) in enumerate(zip(loaded.stages, replays, loaded.rankers, strict=True), 1):
            renderer: Backend = replay
            if prompts:
                with suppress(R2llmError):  # the model's folder may be gone, or its server not there
                    grades, seed = first_stage.dataset.qrels(), loaded.config.seed
                    renderer = open_model(stage.model or {}, grades=grades, seed=seed, weights=False)
            for round_, request, reply in replay.answered:
                same_as = numbers.setdefault(request.key, len(asks) + 1)
                ask = {
                    "ask": len(asks) + 1,
                    "stage": number,
                    "round": round_,
                    "again": request.terms.attempt > 0,
                    "same_as": same_as if same_as <= len(asks) else None,
                }
                asks.append(ask | _asked(request, reply, ranker, replay))
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
