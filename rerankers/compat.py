"""`ranker.compat`: behave as another toolkit does, by ordinary options that can each be set alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .backends.base import RequestSettings
    from .ranker import RankerOptions
    from .types import Params

Toolkit = Literal["llm-rankers"]

TOOLKITS: Mapping[Toolkit, Mapping[str, str]] = {
    "llm-rankers": {  # ielab/llm-rankers at b36517b
        "parse": "digits",
        "lengths": "library",
        "generation_settings": "model",
        "special_tokens": "twice",
        "target_start": "pad",
        # Parameters of the methods that have them.
        "tail": "drop",
        "skip": "reference",
        "outside": "swap",
        "ties": "first_scored",
    }
}

DESCRIPTION = f"behave as that toolkit does: {', '.join(f'{k}: {v}' for k, v in TOOLKITS['llm-rankers'].items())}"

CHANGE_REPLIES = {"generation_settings": "model", "special_tokens": "twice", "target_start": "pad"}
"""The options beside prompt and decoding that change replies, at their value that is not the default."""


def completed(options: RankerOptions) -> RankerOptions:
    """Return the options with those that `compat` sets, unless they are set themselves."""
    implied = TOOLKITS[options.compat] if options.compat else {}
    unset = {name: value for name, value in implied.items() if getattr(options, name, "") is None}
    return options.model_copy(update=unset)


def parameters(toolkit: Toolkit | None, params: type[Params]) -> dict[str, str]:
    """Return the defaults of a method's parameters that `compat` changes."""
    implied = TOOLKITS[toolkit] if toolkit else {}
    return {name: value for name, value in implied.items() if name in params.model_fields}


def key(settings: RequestSettings) -> dict[str, Any]:
    """Return what the options above add to a ledger key: all together the toolkit's name, so that keys stay."""
    changed = {name: value for name, value in CHANGE_REPLIES.items() if getattr(settings, name) == value}
    return {"compat": "llm-rankers"} if len(changed) == len(CHANGE_REPLIES) else {"compat": None, **changed}
