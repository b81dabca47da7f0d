"""The command `r2llm`: registers the commands, and turns errors into one line and an exit code."""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from ..rerankers.errors import explained
from . import (
    abstain,
    check,
    compare,
    console,
    doctor,
    estimate,
    evaluate,
    init,
    inspect,
    judge,
    ledger,
    listing,
    merge,
    pack,
    probe,
    prompt,
    report,
    rerank,
    retrieve,
    runs,
    schema,
    show,
    sweep,
    verify,
)

DEBUG = "--debug"
INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended

app = typer.Typer(
    name="r2llm",
    help="Reproducible LLM reranking experiments on TREC and BEIR collections.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, command, example in (
    ("rerank", rerank.rerank, "--config quickstart.yaml --set ranker.k=20 --queries 5"),
    ("init", init.init, "--dataset beir/scifact/test --model google/flan-t5-large -o scifact.yaml"),
    ("merge", merge.merge, "runs/dl19-setwise-1a2b3c4d"),
    ("retrieve", retrieve.retrieve, "--config quickstart.yaml"),
    ("evaluate", evaluate.evaluate, "run.trec --qrels qrels.txt --measure nDCG@10"),
    ("sweep", sweep.sweep, "--config quickstart.yaml --axis ranker.method=setwise.heapsort,pairwise.heapsort"),
    ("runs", runs.runs, ""),
    ("compare", compare.compare, "runs/a runs/b --baseline runs/a"),
    ("judge", judge.judge, "runs/a runs/b --config judge.yaml -o judged.qrels"),
    ("probe", probe.probe, "--config quickstart.yaml --probes doh,dch"),
    ("abstain", abstain.abstain, "runs/monot5-a --reference runs/monot5-b"),
    ("report", report.report, "runs/a runs/b -o report.html"),
    ("check", check.check, "--config quickstart.yaml --baseline baseline.json"),
    ("doctor", doctor.doctor, ""),
    ("schema", schema.schema, "> schema.json"),
    ("prompt", prompt.prompt, "--config quickstart.yaml --query q01"),
    ("estimate", estimate.estimate, "--config dl19-setwise.yaml --set model.device=cuda"),
    ("show", show.show, "runs/quickstart-1a2b3c4d"),
    ("verify", verify.verify, "runs/quickstart-1a2b3c4d"),
    ("pack", pack.pack, "runs/quickstart-1a2b3c4d -o quickstart.zip"),
    ("inspect", inspect.inspect, "runs/quickstart-1a2b3c4d --query q01"),
    ("list", listing.list_, "methods setwise.heapsort"),
):
    app.command(name, epilog=f"Example: r2llm {name} {example}".rstrip())(command)
app.add_typer(ledger.app, name="ledger")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    _debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error; also after a command.")] = False,
) -> None:
    if version:
        from .. import __version__

        console.line(f"r2llm {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line.

    Exit codes: 0 fine, 1 a regression, 2 the user's input, 3 a backend failed, 4 a fault of r2llm.
    """
    words = [word for word in sys.argv[1:] if word != DEBUG]
    _open_streams()
    code = _run(words, debug=len(words) < len(sys.argv) - 1)
    try:
        sys.stdout.flush()
    except OSError:  # reported already; the rest of the output is dropped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(words: Sequence[str], *, debug: bool) -> int:
    """Run a command and return its exit code; an error is one line, and with `debug` its traceback too."""
    try:
        return app(words, standalone_mode=False) or 0
    except (BrokenPipeError, SystemExit) as stop:  # typer makes a closed pipe exit 1, which means a regression here
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        return 0  # the reader has seen enough
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - any unforeseen error
        if show := getattr(error, "show", None):  # a wrong command line: an error of click, or of typer's copy of it
            show(usage := io.StringIO())
            console.trouble(usage.getvalue())
            return 2
        message, code = explained(error)
        console.error(message)
        if debug:
            console.trouble(traceback.format_exc())
        return code


def _open_streams() -> None:
    """Make standard output and error writable for any text. Raises SystemExit if there is no standard output."""
    if sys.stderr is None:  # libraries write to descriptor 2, so no other file may get it
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
        sys.stderr = os.fdopen(2, "w")
    if sys.stdout is None:
        console.error("standard output is closed; open it, or send it to /dev/null")
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
