"""What makes a run doubtful: answers that could not be read, and scores that tell no documents apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...rerankers.accounting import Tally

MOST = 0.05
"""Above this share of unread answers a run is warned of."""

SHOWN = 80
"""How many characters of an example are shown."""

HINTS = {
    "empty": "the model wrote nothing that counts: raise ranker.max_new_tokens, or switch its thinking off",
    "unfinished_thought": "the answer ended inside a thought: raise ranker.max_new_tokens, or switch thinking off",
    "refused": "the model or its provider declined: see the example",
}
"""What helps, by the form of an unread answer."""


def unread(tally: Tally) -> dict[str, dict[str, Any]]:
    """For a manifest: how many answers could not be read for which reason, the commonest first, with an example."""
    return {
        form: {"answers": count, "example": tally.examples[form][:SHOWN]}
        for form, count in sorted(tally.unread.items(), key=lambda item: (-item[1], item[0]))
    }


def joined(parts: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """That of all shards."""
    total: dict[str, dict[str, Any]] = {}
    for part in parts:
        for form, told in part.items():
            total.setdefault(form, {**told, "answers": 0})["answers"] += told["answers"]
    return dict(sorted(total.items(), key=lambda item: (-item[1]["answers"], item[0])))


def warnings(content: Mapping[str, Any], asks: int) -> list[str]:
    """What a manifest must warn of, a sentence each, given how many asks there were."""
    listed = []
    if content["unparsed"] > MOST * asks:
        form, commonest = next(iter(content["unread"].items()))
        hint = HINTS.get(form.partition(": ")[2])
        listed.append(
            f"{content['unparsed']:,} of {asks:,} answers ({content['unparsed'] / asks:.0%}) could not be read, so "
            f"the measures say little about the model; most often {form} ({commonest['answers']:,}), for example "
            f"{commonest['example']!r}{f'; {hint}' if hint else ''}"
        )
    if equal := content["equal_scores"]:
        listed.append(
            f"all documents of a query got one and the same score in {equal:,} of {content['queries']:,} queries "
            "and kept their order: check prompt, labels and chat template with r2llm prompt and r2llm inspect"
        )
    return listed


def refusal(content: Mapping[str, Any], asks: int, most: float | None) -> str | None:
    """Why more answers are unread than the config's `max_unparsed` allows; None where they are not."""
    if most is None or not asks or content.get("unparsed", 0) <= most * asks:
        return None
    return (
        f"{content['unparsed']:,} of {asks:,} answers could not be read, {content['unparsed'] / asks:.1%} where "
        f"max_unparsed allows {most:.1%}; all answers, ranking and measures are kept"
    )
