"""Listwise reranking: the model orders a window of documents."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ...types import Answer, AskKind, Part, Ranking, Scoring, Steps, permute
from ...types import Params as BaseParams


class Params(BaseParams):
    """Parameters of all listwise methods."""

    asks: ClassVar[tuple[AskKind, ...]] = ("permute",)
    prompt: ClassVar[str] = "rankgpt"
    scored_prompt: ClassVar[str | None] = "setwise"  # None for a method that is its prompt
    scoring: ClassVar[Scoring] = "generation"


class Sliding(Params):
    """Parameters of sliding windows."""

    shows: ClassVar[int | str] = "window"

    window: int = Field(20, ge=2, description="documents a window")
    stride: int = Field(10, ge=1, description="documents from one window to the next")
    repeats: int = Field(1, ge=1, description="passes over the whole list")
    tail: Literal["cover", "drop"] = Field("cover", description="what to do with a last window that is shorter")

    @model_validator(mode="after")
    def _every_document_is_seen(self) -> "Sliding":
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} is more than window {self.window}: documents would be passed over")
        return self


def windows(n: int, size: int, stride: int, *, partial: bool) -> Iterator[tuple[int, int]]:
    """Yield windows [start, end) over n documents, from the bottom up in steps of `stride`.

    The last one reaches rank 1; where it would start above it, it is cut short, or left out unless `partial`.
    """
    end = n
    while end > 0:
        start = end - size
        if start < 0 and not partial:
            return
        yield max(start, 0), end
        if start <= 0:
            return
        end -= stride


def in_order(docs: Sequence[str], answer: Answer) -> list[str]:
    """Return the documents shown, in the order of the answer."""
    return [docs[i] for i in answer.order]


def ordered(docs: Sequence[str], signals: Sequence[str] = ()) -> Part[list[str]]:
    """Have the documents ordered by one ask; fewer than two are not asked about."""
    if len(docs) < 2:
        return list(docs)
    [answer] = yield [permute(docs, signals)]
    return in_order(docs, answer)


def slide(ids: Sequence[str], params: Sliding, signals: Mapping[str, str] | None = None) -> Steps:
    """Rank the documents by sliding windows, each document with its signal beside it where there are any."""
    docs = list(ids)
    for _ in range(params.repeats):
        for start, end in windows(len(docs), params.window, params.stride, partial=params.tail == "cover"):
            shown = docs[start:end]
            docs[start:end] = yield from ordered(shown, [signals[doc] for doc in shown] if signals else ())
    return Ranking(tuple(docs))
