"""What a model's tokens cost, in US dollars: prices that the user gives; none come with the package.

A file of prices is YAML, by model name, per million tokens:

    gpt-4o-mini: {prompt: 0.15, completion: 0.6}
    my-org/some-model: {prompt: 1.1, completion: 4.4, cached_prompt: 0.275}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .catalog import nearest
from .errors import InputError

MILLION = 1_000_000
"""Prices are for so many tokens."""

FORM = "a price is {prompt: …, completion: …}, in US dollars per million tokens"


class Price(BaseModel):
    """A model's prices, in US dollars per million tokens."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)
    cached_prompt: float | None = Field(None, ge=0, allow_inf_nan=False)
    """For prompt tokens that the server had in its cache; as others unless given."""

    def usd(self, prompt_tokens: int, completion_tokens: int, cached_prompt_tokens: int = 0) -> float:
        """What so many tokens cost, in US dollars; the cached ones are among those of the prompt."""
        cached = self.prompt if self.cached_prompt is None else self.cached_prompt
        prompt = (prompt_tokens - cached_prompt_tokens) * self.prompt + cached_prompt_tokens * cached
        return (prompt + completion_tokens * self.completion) / MILLION


def user_file() -> Path:
    """The user's own file of prices: `prices.yaml` in the folder of r2llm's settings, which need not be there."""
    return Path(platformdirs.user_config_dir("r2llm")) / "prices.yaml"


def price_of(model: str, given: Mapping[str, object] | str | None) -> Price | None:
    """A model's price: `given` itself, or what the file of that name says; by default what the user's own file says.

    None where the user's own file is not there or does not name the model. Raises `InputError` where a price or a file
    is malformed, and where a file that is given does not name the model.
    """
    if isinstance(given, Mapping):
        return _price(given, "model.prices")
    path = user_file() if given is None else Path(given).expanduser()
    if given is None and not path.is_file():
        return None
    found = _entries(path)
    if model in found:
        line, price = found[model]
        return _price(price, f"{path}, line {line}: {model}")
    if given is None:
        return None
    others = nearest(model, found) if found else ""
    raise InputError(f"{path}: model.prices names a file that has no price of {model}{others}; {FORM}")


def _price(given: object, where: str) -> Price:
    try:
        return Price.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        what = "".join(f"{part}: " for part in first["loc"])
        problem = "no mapping" if first["type"] == "model_type" else first["msg"].replace("Input should", "should")
        raise InputError(f"{where}: {what}{problem}; {FORM}") from error


def _entries(path: Path) -> dict[str, tuple[int, object]]:
    """What a file says of each model, and on which line."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}, line {root.start_mark.line + 1}: expected models by name; {FORM}")
        found: dict[str, tuple[int, object]] = {}
        for key, value in root.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in found:
                raise InputError(f"{path}, line {line}: {name} is given twice, first on line {found[name][0]}")
            found[name] = line, loader.construct_object(value, deep=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"model.prices: {path} cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{where}: not valid YAML: {problem}; {FORM}") from error
    return found
