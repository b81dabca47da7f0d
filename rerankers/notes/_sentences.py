"""Sentences by a plain rule: NLTK's splitter, which papers use, needs data that do not come with it."""

import re
from collections.abc import Iterator, Sequence

END = re.compile("[.!?\u2026][\"'\u201d\u2019\xbb)\\]]* (?![a-z])")
"""Closing quotes and brackets belong to the sentence; "e.g. this" is none, "Dr. Who" is two."""


def split(text: str) -> Iterator[str]:
    """Yield the sentences of a text: each ends at . ! ? or … where a blank and no lower-case letter a to z follows."""
    text, start = " ".join(text.split()), 0
    for end in END.finditer(text):
        yield text[start : end.end() - 1]
        start = end.end()
    yield text[start:]


def gather(passages: Sequence[str], words: int = 3, most: int = 200, enough: int = 128) -> list[str]:
    """Return the first sentences of each passage, in order, each text once.

    A sentence must have so many `words`, and those taken of its passage must stay within `most` characters with it or
    have fewer than `enough` without it. In a script without blanks between words there are none.
    """
    sentences: dict[str, None] = {}
    for passage in passages:
        length = 0
        for sentence in split(passage):
            fits = length + len(sentence) <= most or length < enough
            if fits and len(sentence.split()) >= words and sentence not in sentences:
                sentences[sentence] = None
                length += len(sentence)
    return list(sentences)
