"""`r2llm prompt`: exactly what the model would be sent."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from ..pipeline.preview import Preview


def prompt(
    config: options.Config,
    query: Annotated[str, typer.Option("--query", metavar="ID", help="The query's identifier.")],
    stage: Annotated[int, typer.Option("--stage", metavar="N", help="Which stage of a cascade asks.")] = 1,
    settings: options.Settings = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what the model would be sent for the first ask of a query, and how its answer would be read.

    No weights are loaded: a tokenizer and a model's config do.
    """
    import dataclasses

    from ..pipeline import preview as prompt_preview
    from . import console

    found = prompt_preview.preview(config, settings or (), query, console.listener(quiet), stage)
    if as_json:
        console.as_json(dataclasses.asdict(found))
        return
    for text in _before(found):
        console.line(text)
    console.block(found.shown.text)
    for text in _after(found):
        console.line(text)


def _before(found: "Preview") -> list[str]:
    """Return what is told before the prompt; the prompt stands between two lines of its own."""
    tokens = found.shown.tokens
    size = "no tokenizer, so nothing is cut or counted" if tokens is None else f"{len(tokens)} tokens"
    return [
        f"query {found.query.id}: {found.query.text}",
        f"ask: {found.kind} {', '.join(found.docs)} (the first of {found.asks_in_round} in the first round)",
        *([_stage(found)] if found.stages > 1 else []),
        f"method: {found.method}; prompt: {found.prompt}; form: {found.architecture}",
        f"----- prompt: {size}",
    ]


def _after(found: "Preview") -> list[str]:
    """Return how the answer to the prompt would be read."""
    lines = ["----- end of the prompt"]
    if found.answer_prefix:
        ids = f" (tokens {', '.join(map(str, found.prefix_tokens))})" if found.prefix_tokens else ""
        place = "after the decoder's start token" if found.architecture == "encoder_decoder" else "at the prompt's end"
        lines.append(f"the answer begins with {found.answer_prefix!r}, {place}{ids}")
    if found.prompt_tokens_limit is not None:
        lines.append(f"a prompt of more than {found.prompt_tokens_limit} tokens loses its end")
    if found.labels:
        labels = [
            f"{label.label} = {label.meaning}"
            + (f" (token {' '.join(map(str, label.tokens))})" if label.tokens else "")
            for label in found.labels
        ]
        lines.append(f"labels: {', '.join(labels)}")
    lines.append(f"scoring: {found.scoring}; {found.reading}")
    if found.max_new_tokens is not None:
        lines.append(f"at most {found.max_new_tokens} new tokens; what cannot be read: {found.on_unparsed}")
    return lines


def _stage(found: "Preview") -> str:
    order = "" if found.stage == 1 else "; its documents as the first stage found them, for no stage before it was run"
    return f"stage: {found.stage} of {found.stages}{order}"
