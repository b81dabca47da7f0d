"""`r2llm prompt`: exactly what the model would be sent."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, options

if TYPE_CHECKING:
    from ..pipeline.preview import Preview


def prompt(
    config: options.Config,
    query: Annotated[str, typer.Option("--query", metavar="ID", help="The query's identifier.")],
    stage: Annotated[int, typer.Option("--stage", metavar="N", help="The stage of a cascade that asks.")] = 1,
    settings: options.Settings = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what the model would be sent for the first ask of a query, and how its answer would be read.

    No weights are loaded, only the model's tokenizer and config.
    """
    import dataclasses

    from ..pipeline import preview as previews

    preview = previews.preview(config, settings or (), query, console.listener(quiet), stage)
    if as_json:
        console.as_json(dataclasses.asdict(preview))
        return
    for text in _before(preview):
        console.line(text)
    console.block(preview.shown.text)
    for text in _after(preview):
        console.line(text)


def _before(preview: "Preview") -> Iterator[str]:
    """Yield the lines before the prompt, which stands between two lines of dashes."""
    tokens = preview.shown.tokens
    order = "; its documents as the first stage found them, for no stage before it was run" if preview.stage > 1 else ""
    size = "no tokenizer, so nothing is cut or counted" if tokens is None else f"{len(tokens)} tokens"
    yield f"query {preview.query.id}: {preview.query.text}"
    yield f"ask: {preview.kind} {', '.join(preview.docs)} (the first of {preview.asks_in_round} in the first round)"
    if preview.stages > 1:
        yield f"stage: {preview.stage} of {preview.stages}{order}"
    yield f"method: {preview.method}; prompt: {preview.prompt}; form: {preview.architecture}"
    yield f"----- prompt: {size}"


def _after(preview: "Preview") -> Iterator[str]:
    yield "----- end of the prompt"
    if preview.answer_prefix:
        ids = f" (tokens {', '.join(map(str, preview.prefix_tokens))})" if preview.prefix_tokens else ""
        decoder = preview.architecture == "encoder_decoder"
        place = "after the decoder's start token" if decoder else "at the prompt's end"
        yield f"the answer begins with {preview.answer_prefix!r}, {place}{ids}"
    if preview.prompt_tokens_limit is not None:
        yield f"a prompt of more than {preview.prompt_tokens_limit} tokens loses its end"
    if preview.labels:
        tokens = [f" (token {' '.join(map(str, label.tokens))})" if label.tokens else "" for label in preview.labels]
        labels = [f"{each.label} = {each.meaning}{ids}" for each, ids in zip(preview.labels, tokens, strict=True)]
        yield f"labels: {', '.join(labels)}"
    yield f"scoring: {preview.scoring}; {preview.reading}"
    if preview.max_new_tokens is not None:
        yield f"at most {preview.max_new_tokens} new tokens; what cannot be read: {preview.on_unparsed}"
