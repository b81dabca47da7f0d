"""`r2llm ledger`: copy, describe and check the file that holds every answer of a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from . import console, options

app = typer.Typer(help="Export, describe and verify ledgers: every answer of a run.", no_args_is_help=True)

LedgerFile = Annotated[Path, typer.Argument(metavar="LEDGER", help="A run's ledger.sqlite, or an exported one.")]


@app.command("export")
def export(
    ledger: LedgerFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file that ends in .jsonl or .sqlite.")],
) -> None:
    """Copy a ledger, ordered by key: .jsonl to read and compare, .sqlite, compact, to replay.

    A replay is `model: {backend: replay, answers: OUT.sqlite}` in the config of the recording.
    """
    from ..pipeline.run import ledgers

    answers = ledgers.export(ledger, out)
    console.line(f"{out}: {answers:,} answers, {out.stat().st_size:,} bytes")


@app.command("info")
def info(ledger: LedgerFile, as_json: options.Json = False) -> None:
    """Describe a ledger: whose answers, how many, to how many queries, how long."""
    from ..pipeline.run import ledgers

    facts = ledgers.info(ledger)
    if as_json:
        console.as_json(facts)
        return
    rows = [["model", json.dumps(model, sort_keys=True)] for model in facts.pop("models")]
    for name, value in facts.items():
        words = "-" if value is None else f"{value:,}" if isinstance(value, int) else value
        rows.append([name.replace("_", " "), words])
    console.table(str(ledger), ["what", "value"], rows)


@app.command("verify")
def verify(ledger: LedgerFile, as_json: options.Json = False) -> None:
    """Check a ledger: SQLite's integrity check, and every row read. Exit 1 if something is wrong."""
    from ..pipeline.run import ledgers

    faults = ledgers.faults(ledger)
    if as_json:
        console.as_json({"ledger": str(ledger), "ok": not faults, "faults": faults})
    for fault in [] if as_json else faults or [f"{ledger}: sound"]:
        console.line(fault)
    raise typer.Exit(1 if faults else 0)
