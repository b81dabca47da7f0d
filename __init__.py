"""r2llm: reproducible LLM reranking experiments on TREC and BEIR collections.

From Python, `rerank` ranks candidates in memory, `rerank_frame` a frame of them as PyTerrier passes it, with a model
that a mapping describes or `open_model` has opened. What can go wrong is an `R2llmError`.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "InputError",
    "R2llmError",
    "Reranked",
    "__version__",
    "open_model",
    "rerank",
    "rerank_frame",
]

if TYPE_CHECKING:
    from .rerankers.api import Reranked, open_model, rerank, rerank_frame
    from .rerankers.errors import BackendError, InputError, R2llmError


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command line's --help has no use for them.
    if name in __all__:
        from .rerankers import api, errors

        return getattr(errors if name.endswith("Error") else api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
