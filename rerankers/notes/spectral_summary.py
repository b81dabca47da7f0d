"""A summary of several passages: sentences of their larger theme, found by spectral clustering.

Long et al., SIGIR 2025 (GCCP's anchor): sentences are linked by the cosine of their TF-IDF vectors, and the signs of
the Fiedler vector, the second eigenvector of the normalised Laplacian, part them in two. The paper's full text was not
at hand; this follows what utshabkg/GCCP-reproduce reports of it and of the authors' code.

`choice: cluster` is the paper's: the first sentences of the larger part. `magnitude` is the code's: those of largest
magnitude in the Fiedler vector or, where most of it is negative, of the smallest.

An eigenvector has no sign, and where the graph falls apart (it does for 42 of 43 queries of DL19) there are many second
ones, of which the authors' code takes any. Here it is the one closest to the sentence with the fewest links, the last
of them, which is positive in it: the larger part is then mostly all but that sentence and those linked to it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

ZERO = 1e-9  # what is smaller is rounding error

END = re.compile("[.!?\u2026][\"'\u201d\u2019\xbb)\\]]* (?![a-z])")
"""The end of a sentence by a plain rule: NLTK's splitter, which papers use, needs data that do not come with it.

Closing quotes and brackets belong to the sentence; "e.g. this" is none, "Dr. Who" is two.
"""


def spectral_summary(
    query: str,  # noqa: ARG001 - the signature of every note
    passages: Sequence[str],
    sentences: int = 10,
    threshold: float = 0.2,
    choice: Literal["cluster", "magnitude"] = "cluster",
) -> str:
    """Return at most z `sentences` of the passages, in order; `threshold` is θ, the least cosine that links two."""
    summary = gather(passages)
    if len(summary) > sentences:
        fiedler = _fiedler(_links(summary, threshold))
        apart = fiedler > 0
        if choice == "cluster":
            chosen = np.flatnonzero(apart if 2 * apart.sum() > len(summary) else ~apart)
        else:
            smallest = apart.sum() < (fiedler < 0).sum()
            chosen = np.argsort(np.abs(fiedler) if smallest else -np.abs(fiedler), kind="stable")
        summary = [summary[i] for i in sorted(chosen[:sentences])]
    return " ".join(summary)


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


def _links(sentences: Sequence[str], threshold: float) -> NDArray[np.float64]:
    """Return the cosines between sentences, and of each with itself, that reach the threshold; 0 elsewhere."""
    vectors = TfidfVectorizer(stop_words="english")
    if not any(map(vectors.build_analyzer(), sentences)):  # stop words and signs alone
        return np.zeros((len(sentences), len(sentences)))
    weights = vectors.fit_transform(sentences)
    cosines = (weights @ weights.T).toarray()
    return np.where(cosines >= threshold, cosines, 0.0)


def _fiedler(links: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the second eigenvector of the normalised Laplacian; of several, and of its two signs, see above."""
    degrees = links.sum(axis=1)
    roots = np.sqrt(degrees)
    scale = np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > 0)
    first = roots / max(float(np.linalg.norm(roots)), ZERO)
    # The first eigenvector, whose eigenvalue is 0, is moved above all others, which are at most 2.
    laplacian = np.eye(len(links)) - scale[:, None] * links * scale + 3 * np.outer(first, first)
    values, vectors = np.linalg.eigh(laplacian)
    space = vectors[:, values < values[0] + ZERO]
    closest = space @ space.T  # row i: of all the second eigenvectors, the one closest to sentence i
    there = np.flatnonzero(closest.diagonal() > ZERO)[::-1]
    return np.asarray(closest[min(there, key=lambda i: degrees[i].round(9))].round(9))
