"""Prices of models' tokens in US dollars, given by the user; none come with the package.

A file of prices is YAML, by model name, per million tokens:

    gpt-4o-mini: {prompt: 0.15, completion: 0.6}
    my-org/some-model: {prompt: 1.1, completion: 4.4}
"""

from collections.abc import Mapping
from pathlib import Path

import platformdirs
import yaml
from pydantic import Field

from .catalog import nearest
from .errors import InputError, reason
from .types import Strict

FORM = "a price is {prompt: …, completion: …}, in US dollars per million tokens"


class Price(Strict):
    """A model's prices, in US dollars per million tokens."""

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of tokens in US dollars, without discounts for cached prompts."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1_000_000


def user_file() -> Path:
    """Return the path of the user's own file of prices, which need not be there."""
    return Path(platformdirs.user_config_dir("r2llm")) / "prices.yaml"


def price_of(model: str, prices: Mapping[str, object] | str | None) -> Price | None:
    """Return a model's price: itself, or out of the file of that name; by default out of the user's own file.

    None if the user's own file is not there or does not name the model. Raises `InputError` for a malformed price or
    file, and for a named file that does not name the model.
    """
    where = "model.prices"
    try:
        if isinstance(prices, Mapping):
            return Price.model_validate(prices)
        path = user_file() if prices is None else Path(prices).expanduser()
        if prices is None and not path.is_file():
            return None
        where = f"model.prices: {path}"
        text = path.read_text(encoding="utf-8")
        where = str(path)
        content = yaml.safe_load(text) or {}
        if not isinstance(content, dict):
            raise ValueError("expected models by name")
        entries = {str(name): price for name, price in content.items()}
        if model in entries:
            where += f": {model}"
            return Price.model_validate(entries[model])
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{where}: {reason(error)}; {FORM}") from error
    if prices is None:
        return None
    others = nearest(model, entries) if entries else ""
    raise InputError(f"{where}: model.prices names a file that has no price of {model}{others}; {FORM}")
