"""Rerankers for other toolkits, each imported as r2llm.NAME and needing its toolkit."""
