"""Doubts about a run: answers that could not be read, and scores that do not tell documents apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...rerankers.accounting import Tally

if TYPE_CHECKING:
    from .manifest import Manifest

MOST = 0.05
"""The share of unread answers above which a run is warned of."""

SHOWN = 80
"""The characters of an example."""

HINTS = {
    "empty": "the model wrote nothing that counts: raise ranker.max_new_tokens, or switch its thinking off",
    "unfinished_thought": "the answer ended inside a thought: raise ranker.max_new_tokens, or switch thinking off",
    "refused": "the model or its provider declined: see the example",
}
"""Remedies by the form of an unread answer."""


def unread(tally: Tally) -> dict[str, Any]:
    """Return the number of unread answers by reason, the commonest first, each with an example."""
    return {
        form: {"answers": count, "example": tally.examples[form][:SHOWN]}
        for form, count in sorted(tally.unread.items(), key=lambda item: (-item[1], item[0]))
    }


def warnings(run: Manifest, asks: int) -> list[str]:
    """Return the doubts about a run of so many asks, a sentence each."""
    listed = []
    if run.unparsed > MOST * asks:
        form, commonest = next(iter(run.unread.items()))
        hint = HINTS.get(form.partition(": ")[2])
        listed.append(
            f"{run.unparsed:,} of {asks:,} answers ({run.unparsed / asks:.0%}) could not be read, so the measures say "
            f"little about the model; most often {form} ({commonest.answers:,}), for example {commonest.example!r}"
            + (f"; {hint}" if hint else "")
        )
    if run.equal_scores:
        listed.append(
            f"all documents of a query got one and the same score in {run.equal_scores:,} of {run.queries:,} queries "
            "and kept their order: check prompt, labels and chat template with r2llm prompt and r2llm inspect"
        )
    return listed
