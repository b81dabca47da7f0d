"""r2llm's methods in PyTerrier's pipelines: `bm25 >> pt.text.get_text(dataset, "text") >> Reranker(ranker, model)`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from r2llm.rerankers.accounting import frame
from r2llm.rerankers.api import open_model, rerank_frame
from r2llm.rerankers.backends.base import Backend
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.types import Cost

try:
    import pyterrier as pt
except ImportError as fault:
    raise InputError("PyTerrier is not installed here: pip install 'r2llm[pyterrier]'") from fault


class Reranker(pt.Transformer):  # type: ignore[misc]
    """A transformer from candidates with texts to their new order.

    `ranker` and `model` are as in `r2llm.rerank`; a model given by its options is opened once, at the first query. With
    a `ledger`, answers are kept in that file and never asked for twice, whatever pipeline asks.
    """

    def __init__(
        self, ranker: Mapping[str, Any], model: Mapping[str, Any] | Backend, *, ledger: Path | str | None = None
    ) -> None:
        self.ranker = dict(ranker)
        self.model = model
        self.ledger = ledger
        self._costs: list[Cost] = []

    @property
    def costs(self) -> pd.DataFrame:
        """Costs so far, a row for each query, in the order in which they were reranked."""
        return frame(self._costs)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return the frame in its new order, with `rank` and `score`."""
        pt.validate.result_frame(inp, extra_columns=["query", "text"], context=self)
        if isinstance(self.model, Mapping):
            self.model = open_model(self.model)
        return rerank_frame(inp, self.ranker, self.model, ledger=self.ledger, costs=self._costs)

    def close(self) -> None:
        """Close the model."""
        if isinstance(self.model, Backend):
            self.model.close()

    def __repr__(self) -> str:
        return f"r2llm({self.ranker.get('method')})"
