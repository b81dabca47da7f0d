"""Ranking itself: methods, prompts, scheduler, ledger and backends. Knows no datasets and no configs."""
