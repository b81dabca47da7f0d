"""Groupwise reranking: the model sees a group of documents and gives each one a score, and all are sorted by it."""
