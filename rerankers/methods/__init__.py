"""Ranking methods: `<family>/<algorithm>.py`, pure control flow, one algorithm a file.

A method file holds a function named like the file, which takes `Candidates` and its `Params` and is a generator of
rounds of asks (see `..types.Steps`), and the class `Params` with its parameters, their defaults and meaning.
What the methods of a family share stands in the family's `__init__.py`, what families share beside it (`heaps`).
"""
