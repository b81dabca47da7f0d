"""`r2llm prompt`: exactly what the model would be sent."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from . import console, options


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
    from ..pipeline.inspect import preview

    content = preview(config, settings or (), query, console.listener(quiet), stage)
    if as_json:
        console.as_json(content)
        return
    _show(content)


def _show(preview: Mapping[str, Any]) -> None:
    """Print the ask, the prompt between two lines of dashes, and the reading of its answer."""
    tokens = preview["shown"]["tokens"]
    order = "; its documents as the first stage found them, for no stage before it was run"
    console.line(f"query {preview['query']['id']}: {preview['query']['text']}")
    asks = preview["asks_in_round"]
    console.line(f"ask: {preview['kind']} {', '.join(preview['docs'])} (the first of {asks} in the first round)")
    if preview["stages"] > 1:
        console.line(f"stage: {preview['stage']} of {preview['stages']}{order if preview['stage'] > 1 else ''}")
    console.line(f"method: {preview['method']}; prompt: {preview['prompt']}; form: {preview['architecture']}")
    size = "no tokenizer, so nothing is cut or counted" if tokens is None else f"{len(tokens)} tokens"
    console.line(f"----- prompt: {size}")
    console.block(preview["shown"]["text"])
    console.line("----- end of the prompt")
    if preview["answer_prefix"]:
        decoder = preview["architecture"] == "encoder_decoder"
        place = "after the decoder's start token" if decoder else "at the prompt's end"
        ids = f" (tokens {', '.join(map(str, preview['prefix_tokens']))})" if preview["prefix_tokens"] else ""
        console.line(f"the answer begins with {preview['answer_prefix']!r}, {place}{ids}")
    if preview["prompt_tokens_limit"] is not None:
        console.line(f"a prompt of more than {preview['prompt_tokens_limit']} tokens loses its end")
    if preview["labels"]:
        labels = [
            (f"{row['label']} = {row['meaning']}", " ".join(map(str, row["tokens"]))) for row in preview["labels"]
        ]
        console.line(f"labels: {', '.join(f'{label} (token {ids})' if ids else label for label, ids in labels)}")
    console.line(f"scoring: {preview['scoring']}; {preview['reading']}")
    if preview["max_new_tokens"] is not None:
        console.line(f"at most {preview['max_new_tokens']} new tokens; what cannot be read: {preview['on_unparsed']}")
