"""Listwise sliding windows: windows of documents are ordered from the bottom of the list to its top.

Sun et al., "Is ChatGPT Good at Search? Investigating Large Language Models as Re-Ranking Agents", EMNLP 2023,
arXiv:2304.09542 (RankGPT). With `scoring: likelihood`, Zhuang et al., SIGIR 2024, arXiv:2310.09497: the setwise
prompt, a window ordered by its labels' probabilities. `tail: drop`, as in ielab/llm-rankers, leaves out a last
window that would be shorter than the others, so that the first ranks may never be seen.
"""

from ...types import Candidates, Steps
from . import Sliding as Params
from . import slide


def sliding(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by sliding windows."""
    return slide(candidates.ids, params)
