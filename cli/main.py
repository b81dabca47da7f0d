"""The command `r2llm`: registers the commands, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys

import typer

from . import (
    check,
    console,
    doctor,
    estimate,
    evaluate,
    inspect,
    ledger,
    listing,
    merge,
    prompt,
    rerank,
    retrieve,
    schema,
    show,
    verify,
)

app = typer.Typer(
    name="r2llm",
    help="Reproducible LLM reranking experiments on TREC and BEIR collections.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("rerank")(rerank.rerank)
app.command("merge")(merge.merge)
app.command("retrieve")(retrieve.retrieve)
app.command("evaluate")(evaluate.evaluate)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.command("schema")(schema.schema)
app.command("prompt")(prompt.prompt)
app.command("estimate")(estimate.estimate)
app.command("show")(show.show)
app.command("verify")(verify.verify)
app.add_typer(ledger.app, name="ledger")
app.command("inspect")(inspect.inspect)
app.command("list")(listing.list_)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True)) -> None:
    if version:
        from .. import __version__

        typer.echo(f"r2llm {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 a regression, 2 the user's input, 3 a backend failed."""
    from ..rerankers.errors import R2llmError

    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except R2llmError as error:
        console.error(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _end_unread()
    except SystemExit as stop:
        # Typer makes of a closed pipe an exit 1, which is our word for a regression.
        if isinstance(stop.__context__, BrokenPipeError):
            _end_unread()
        raise


def _end_unread() -> None:
    """End well where whoever read the output has seen enough; what is still to be written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


if __name__ == "__main__":
    main()
