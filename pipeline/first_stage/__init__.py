"""The first stage: BM25 through Lucene, or a given run."""
