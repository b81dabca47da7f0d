"""InsertRank: listwise reranking in which every passage is shown with its first-stage score.

Seetharaman et al., "InsertRank: LLMs can reason over BM25 scores to Improve Listwise Reranking", WSDM 2026,
arXiv:2506.14086. Scores have three decimals, as in castorini/rank_llm at 1b3cabb. The two ablations of the paper are
options, known only from its abstract: `scores: minmax` puts the scores of a query's candidates between 0 and 1 (all 0
where they are equal), `order: shuffle` starts from a random order instead of the first stage's.
"""

from typing import ClassVar, Literal

from pydantic import Field

from ...types import Candidates, Seeded, Steps, minmax
from . import Sliding, slide


class Params(Sliding, Seeded):
    """Parameters of InsertRank."""

    prompt: ClassVar[str] = "insertrank"
    scored_prompt: ClassVar[str | None] = None

    scores: Literal["raw", "minmax"] = Field("raw", description="first-stage scores as they are, or between 0 and 1")
    order: Literal["given", "shuffle"] = Field("given", description="the order that the windows start from")

    @property
    def draws(self) -> bool:
        """Return whether it makes random choices."""
        return self.order == "shuffle"


def insertrank(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by sliding windows, with first-stage scores beside the passages."""
    scores = candidates.scores if params.scores == "raw" else minmax(candidates.scores, equal=0.0)
    docs = list(candidates.ids)
    if params.draws:
        params.dice(candidates).shuffle(docs)
    return slide(docs, params, dict(zip(candidates.ids, [f"{score:.3f}" for score in scores], strict=True)))
