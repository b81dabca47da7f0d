"""`r2llm init`: a first config."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..rerankers.errors import InputError
from . import console

MODEL = "google/flan-t5-large"  # the model where nobody names one: small, open, and in the papers' tables


def init(
    dataset: Annotated[str | None, typer.Option(help="An ir_datasets id, a BEIR folder, or quickstart.")] = None,
    first_stage: Annotated[
        str | None, typer.Option(help="A TREC run file, or a BM25 index: prebuilt, a Lucene folder, or `build`.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="One of `r2llm list methods`.")] = None,
    model: Annotated[str | None, typer.Option(help="A model's name or folder, or a file of recorded answers.")] = None,
    backend: Annotated[str | None, typer.Option(help="One of `r2llm list backends`.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file.")] = Path("config.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take defaults, and say which.")] = False,
) -> None:
    """Write a first config, with comments. Asks for what no option says; off a terminal, defaults are taken."""
    from ..pipeline.configs import draft, load

    if output.exists():
        raise InputError(f"{output} is there already; name another file with --output")
    asking = not yes and sys.stdin.isatty() and sys.stderr.isatty()

    def answer(option: str, given: str | None, default: str) -> str:
        if given is not None:
            return given
        if asking:
            return str(typer.prompt(option, default=default, err=True))
        console.listener(quiet=False).note(f"--{option} {default} by default")
        return default

    dataset = answer("dataset", dataset, "quickstart")
    first_stage = answer("first-stage", first_stage, draft.index(dataset))
    method = answer("method", method, "setwise.heapsort")
    backend = answer("backend", backend, "transformers" if model else "simulated")
    if draft.model_key(backend):
        model = answer("model", model, MODEL)
    text = draft.text(str(output), dataset, first_stage, method, backend, model)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
        load.load(str(output.resolve()))
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written: {error.strerror}") from error
    except InputError:
        output.unlink()
        raise
    console.line(f"wrote {output}; r2llm rerank --config {output} runs it")
