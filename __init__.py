"""r2llm: reproducible LLM reranking experiments on TREC and BEIR collections."""

__version__ = "0.1.0"
