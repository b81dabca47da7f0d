"""Pointwise reranking: every document gets a score of its own, and the documents are sorted by it."""
