"""`ranker.compat`: behave as another toolkit does, by ordinary options that can each be set alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .backends.base import RequestSettings
    from .ranker import RankerOptions
    from .types import Params

Toolkit = Literal["llm-rankers"]

TOOLKITS: Mapping[Toolkit, Mapping[str, object]] = {
    "llm-rankers": {  # ielab/llm-rankers at b36517b
        "parse": "digits",
        "library_lengths": True,
        "model_settings": True,
        "special_tokens_twice": True,
        "count_pad": True,
        # Parameters of the methods that have them.
        "tail": "drop",
        "skip": "reference",
        "outside": "swap",
        "ties": "first_scored",
    }
}

DESCRIPTION = "behave as that toolkit does: " + ", ".join(
    f"{name}: {str(value).lower()}" for name, value in TOOLKITS["llm-rankers"].items()
)
CHANGE_REPLIES = ("model_settings", "special_tokens_twice", "count_pad")
"""The options beside prompt and decoding that change replies."""


def completed(options: RankerOptions) -> RankerOptions:
    """Return the options with those that `compat` sets, unless they are set themselves."""
    implied = TOOLKITS[options.compat] if options.compat else {}
    unset = {name: value for name, value in implied.items() if getattr(options, name, "") is None}
    return options.model_copy(update=unset)


def parameters(toolkit: Toolkit | None, params: type[Params]) -> dict[str, object]:
    """Return the defaults of a method's parameters that `compat` changes."""
    implied = TOOLKITS[toolkit] if toolkit else {}
    return {name: value for name, value in implied.items() if name in params.model_fields}


def key(settings: RequestSettings) -> dict[str, Any]:
    """Return what the options above add to a ledger key: all together the toolkit's name, so that keys stay."""
    changed = {name: True for name in CHANGE_REPLIES if getattr(settings, name)}
    return {"compat": "llm-rankers"} if len(changed) == len(CHANGE_REPLIES) else {"compat": None, **changed}
