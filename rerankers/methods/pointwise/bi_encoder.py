"""Bi-encoder: documents sorted by the similarity of their vectors to the query's, each text read by itself.

Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084. All documents are ranked; equal scores keep first-stage order.
"""

from typing import ClassVar

from ...types import Candidates, Steps
from .cross_encoder import Params as CrossEncoderParams
from .cross_encoder import cross_encoder


class Params(CrossEncoderParams):
    """Parameters of a bi-encoder: none."""

    prompt: ClassVar[str] = "vectors"


def bi_encoder(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by the similarity of vectors."""
    return cross_encoder(candidates, params)
