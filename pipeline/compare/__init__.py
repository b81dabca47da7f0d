"""Comparing runs: paired tests of per-query values, similarity of rankings, and reproduction of an original run."""
