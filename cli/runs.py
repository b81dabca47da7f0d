"""`r2llm runs`: an index of run folders."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console, options

DESCRIBED = ("dataset", "method", "model", "depth", "queries")
COUNTS = ("asks", "calls", "seconds")


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the run folders are.")] = Path("runs"),
    prune: Annotated[bool, typer.Option("--prune", help="Name only the unfinished runs.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the runs below a folder: what was run, how it measured, what it cost, and whether it is finished."""
    from ..pipeline.run import index

    rows = index.rows(folder)
    if prune:
        rows = [row for row in rows if row["status"] == "unfinished"]
    if as_json:
        console.as_json(rows)
        return
    console.table(
        f"runs in {folder}", ["run", "status", *DESCRIBED, "measures", *COUNTS, "when"], list(map(_cells, rows))
    )
    for row in rows:
        if "error" in row:
            console.line(f"UNREADABLE {row['error']}")


def _cells(row: dict[str, Any]) -> list[str]:
    from .results import number, words

    if "error" in row:
        return [row["run_dir"], row["status"], *["-"] * (len(DESCRIBED) + len(COUNTS) + 2)]
    status = row["status"] + (f", shard {row['shard']}" if row["shard"] else "")
    measures = ", ".join(f"{name} {value:.4f}" for name, value in row["metrics"].items())
    if row["simulated"]:
        measures += " (simulated)"
    costs = {**row["costs"], "seconds": row["wall_seconds"]}
    counts = [number(name, costs.get(name)) for name in COUNTS]
    described = [words(row[key]) or "-" for key in DESCRIBED]
    return [row["run_dir"], status, *described, measures.strip() or "-", *counts, str(row["when"])]
