"""The words that all rooms share: queries, candidates, asks, answers, rankings, costs.

A ranking method sees these and nothing else: no texts, tokens, prompts or models.
"""

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from .marks import PathMark

Scoring = Literal["likelihood", "generation"]
"""The way a model answers: by the log-probabilities of the labels at one position, or by text that is read."""

AskKind = Literal[
    "score", "relevance", "likelihood", "compare", "choose", "permute", "select", "rate", "write", "derive"
]
"""The kinds of ask, with a row each in `asks`; those that methods share have a constructor below.

`relevance` is a cross-encoder's score and `likelihood` the log-probability of the query given the document: both are
`Answer.scores[0]`. `select` gives the `limit` most relevant documents in `Answer.order`; `rate` one score a document of
a group, -inf for none. `derive` computes `Answer.note` by `notes/<template>.py`: no model, no cost.
"""

PromptName = Annotated[str, PathMark("named file")]
"""The name of a prompt, or its YAML file."""


class Strict(BaseModel):
    """Keys that a user sets: an unknown one is refused, and no value is made one of another type."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Query:
    """A query (TREC: topic)."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Doc:
    """A document or passage."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """The documents that the first stage retrieved for a query, best first, and their scores."""

    query: Query
    docs: tuple[Doc, ...]
    scores: tuple[float, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the document identifiers in first-stage order."""
        return tuple(doc.id for doc in self.docs)


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt's worth of question about documents of one query, which are presented in the order of `docs`.

    `template` names another prompt than the ranker's own. `notes` are earlier answers (`write`, `derive`) that the
    prompt shows, by name; `signals` short texts beside the documents, such as first-stage scores. `labels` are the
    indices of the documents' labels in the prompt, if not the first ones in order. `sample` tells repeats of one ask
    apart. `options` are those of a derived note.
    """

    kind: AskKind
    docs: tuple[str, ...]
    limit: int = 0
    template: str | None = None
    notes: tuple[tuple[str, str], ...] = ()
    signals: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    sample: int = 0
    options: tuple[tuple[str, float | str], ...] = ()


def score(doc: str, template: str | None = None, notes: Sequence[tuple[str, str]] = ()) -> Ask:
    """Ask for the relevance of one document (pointwise): `Answer.scores[0]`, higher is better."""
    return Ask("score", (doc,), template=template, notes=tuple(notes))


def compare(first: str, second: str, template: str | None = None) -> Ask:
    """Ask for the more relevant of two documents (pairwise): `Answer.choice`, 0 or 1."""
    return Ask("compare", (first, second), template=template)


def choose(docs: Sequence[str]) -> Ask:
    """Ask for the most relevant of several documents (setwise): `Answer.choice`, an index into `docs`."""
    return Ask("choose", tuple(docs))


def permute(docs: Sequence[str], signals: Sequence[str] = ()) -> Ask:
    """Ask for an order of documents (listwise): `Answer.order`, indices into `docs`, best first."""
    return Ask("permute", tuple(docs), signals=tuple(signals))


def write(template: str, docs: Sequence[str] = (), notes: Sequence[tuple[str, str]] = ()) -> Ask:
    """Ask for a note that later asks can carry, such as a query analysis: `Answer.note`."""
    return Ask("write", tuple(docs), template=template, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an ask, as read, in the field that its kind names.

    If `parsed` is false the text could not be read, and the value is the neutral one: the first document, the order as
    presented, no relevance. `form` names the form of the text or the reason. By likelihood, `scores` also holds the
    labels' log-probabilities, and `peak` that of the most relevant label, over the whole vocabulary; for text it is the
    score. `outside` is the index of a label that an older toolkit's rule reads and no document shown has.
    """

    choice: int = 0
    order: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    peak: float = 0.0
    note: str = ""
    text: str | None = None
    parsed: bool = True
    form: str = ""
    outside: int | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Document identifiers, best first: a permutation of the candidates, with scores if the method scores all.

    Of documents that were split, `passages` are the texts of their best ones.
    """

    docs: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    passages: tuple[str, ...] = ()


T = TypeVar("T")

Part = Generator[list[Ask], list[Answer], T]
"""A part of a method at work on one query: yields rounds of independent asks, receives their answers, returns a T."""

Steps = Part[Ranking]
"""A method at work on one query."""


class Params(Strict):
    """Parameters of a ranking method: each method file has its own, beside the algorithm that uses them.

    `asks` are the kinds that the prompt must serve; `prompt`, by likelihood `scored_prompt` where there is one, and
    `scoring` hold unless the config names others; `shows` is the number of documents that one ask shows at most, or the
    parameter that says it.
    """

    asks: ClassVar[tuple[AskKind, ...]]
    prompt: ClassVar[str]
    scored_prompt: ClassVar[str | None] = None
    scoring: ClassVar[Scoring] = "likelihood"
    shows: ClassVar[int | str] = 1

    @property
    def most_docs(self) -> int:
        """Return the most documents that one ask shows."""
        return self.shows if isinstance(self.shows, int) else int(getattr(self, self.shows))

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """Return the scorings that it can work with."""
        return ("likelihood", "generation")

    @property
    def templates(self) -> Mapping[str, AskKind]:
        """Return the prompts that its asks name as `template`, and the kind each one serves."""
        return {}

    @property
    def draws(self) -> bool:
        """Return whether it makes random choices; only then is the seed part of its identity."""
        return False

    def prompt_for(self, scoring: Scoring) -> str:
        """Return the prompt for a scoring, unless the config names another."""
        return self.scored_prompt if scoring == "likelihood" and self.scored_prompt else self.prompt


def added(default: object, description: str) -> Any:
    """Return the field of a parameter that came later: at its default it is no part of a ranker's identity."""
    return Field(default, exclude_if=lambda value: value == default, description=description)


class TopK(Params):
    """Parameters of a method that ranks the top k and leaves the rest in first-stage order."""

    k: int = Field(10, ge=1, description="how many documents to rank; those below keep first-stage order")


class Seeded(Params):
    """Parameters of a method with random choices."""

    seed: int = Field(0, description="seeds its random choices, together with the query id; the config's `seed`")

    @property
    def draws(self) -> bool:
        """Return whether it makes random choices."""
        return True

    def dice(self, candidates: Candidates) -> random.Random:
        """Return the random generator of one query: the same in every run of that seed."""
        return random.Random(f"{self.seed}|{candidates.query.id}")  # noqa: S311


def top_then_rest(top: Sequence[str], candidates: Candidates) -> Ranking:
    """Return the ranked documents, then all others in first-stage order."""
    ranked = set(top)
    return Ranking((*top, *(doc.id for doc in candidates.docs if doc.id not in ranked)))


def by_score(candidates: Candidates, scores: Sequence[float]) -> Ranking:
    """Return all documents by descending score; equal scores keep first-stage order."""
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    return Ranking(tuple(candidates.docs[i].id for i in order), tuple(scores[i] for i in order))


def minmax(values: Sequence[float], equal: float = 0.5) -> list[float]:
    """Return the values moved and scaled to reach from 0 to 1, or `equal` for each if all are equal."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [equal if low == high else (value - low) / (high - low) for value in values]


_Count = TypeVar("_Count", int, float)


def plus(total: _Count | None, more: _Count | None) -> _Count | None:
    """Return the sum of two counts, or None if one of them is unknown."""
    return None if total is None or more is None else total + more


@dataclass(slots=True)
class Cost:
    """The cost of ranking one query; usd is US dollars. Calls, cached and seconds are sums over executions.

    None is unknown: tokens that no tokenizer counted; seconds if an answer came out of an earlier execution or another
    run; flops (`rerankers.flops`) without the model's shape, usd without its price, and both without tokens.
    """

    query_id: str
    asks: int = 0
    calls: int = 0
    cached: int = 0
    rounds: int = 0
    comparisons: int = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    unparsed: int = 0
    seconds: float | None = field(default=None)
    flops: int | None = None
    usd: float | None = None
