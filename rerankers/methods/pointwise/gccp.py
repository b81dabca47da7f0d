"""GCCP: documents sorted by the probability that they beat an anchor, a summary of what the first stage found.

Long et al., "Precise Zero-Shot Pointwise Ranking with LLMs through Post-Aggregated Global Context Information", SIGIR
2025. The anchor is derived from the first m documents (`notes/spectral_summary.py`) and cut to the length of a
passage; the score is P("A"), over the whole vocabulary, in the pairwise prompt with the document as passage A and the
anchor as passage B, in this order only. By generation it is 1 for A and 0 for B or an answer that cannot be read.
n prompts, one round. All documents are ranked; equal scores keep first-stage order.

The paper's full text was not at hand: the details are those that utshabkg/GCCP-reproduce reports of the authors' code.
"""

from ...types import Candidates, Steps, by_score
from . import Anchored as Params
from . import contrasts, peak_probability


def gccp(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by P(more relevant than the anchor)."""
    answers = yield (yield from contrasts(candidates, params))
    return by_score(candidates, [peak_probability(answer) for answer in answers])
