"""A report of runs: one page that asks the network for nothing, and its charts and tables as files for a paper."""
