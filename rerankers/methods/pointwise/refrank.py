"""RefRank: documents sorted by how they fare against one reference document, or several.

Li et al., "Leveraging Reference Documents for Zero-Shot Ranking via Large Language Models", arXiv:2506.11452. This
follows the abstract alone: references are taken from the top of the first stage, and every document is compared with
each of them; one reference is their Single, several with averaged scores their Multiple. All else is a choice made
here, and each one a parameter or a prompt: a comparison gives the probability of the document's label over those of
both (by generation 1 or 0, and ½ where the answer cannot be read), and a reference gets `own_score` for itself. With m
references among n documents, m (n - 1) prompts in one round, twice as many with `order: both`. All documents are
ranked; equal scores keep first-stage order.
"""

from statistics import fmean
from typing import Literal

from pydantic import Field

from ...types import Candidates, Steps, by_score, compare
from ..pairwise import Pairs, probabilities

PLACES = {"candidate_first": (0,), "reference_first": (1,), "both": (0, 1)}
"""The place of the document in the prompts of a pair."""


class Params(Pairs):
    """Parameters of RefRank."""

    m: int = Field(1, ge=1, description="how many of the first stage's documents are references")
    weights: Literal["equal", "rank"] = Field("equal", description="of the references: all 1, or 1 / rank")
    order: Literal["candidate_first", "reference_first", "both"] = Field(
        "candidate_first", description="which of a pair is passage A; both: two prompts a pair, and their mean"
    )
    own_score: float = Field(0.5, ge=0, le=1, description="a reference's score against itself")


def refrank(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by their mean probability of beating the references."""
    references = candidates.ids[: params.m]
    pairs = [(doc, reference) for doc in candidates.ids for reference in references if doc != reference]
    places = PLACES[params.order]
    answers = iter((yield [compare(*((a, b) if place == 0 else (b, a))) for a, b in pairs for place in places]))
    won = {}
    for pair in pairs:
        shown = [(next(answers), place) for place in places]
        won[pair] = fmean(probabilities(answer)[place] if answer.parsed else 0.5 for answer, place in shown)
    weights = [1.0 if params.weights == "equal" else 1 / rank for rank in range(1, len(references) + 1)]
    scores = [fmean([won.get((doc, ref), params.own_score) for ref in references], weights) for doc in candidates.ids]
    return by_score(candidates, scores)
