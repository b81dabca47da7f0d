"""Listwise reranking: the model orders a window of documents."""

from collections.abc import Iterator


def windows(n: int, size: int, stride: int, *, partial: bool) -> Iterator[tuple[int, int]]:
    """Windows [start, end) over n documents, from the bottom up in steps of `stride`.

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
