"""What there is to choose from: a name is a file, so there is no registry to edit.

`setwise.heapsort` is the function `heapsort` in `methods/setwise/heapsort.py`, its parameters the class `Params`
beside it; the prompt `setwise` is `prompts/setwise.yaml`; the backend `simulated` is `backends/simulated.py`; the note
`spectral_summary` is the function of that name in `notes/spectral_summary.py`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from .errors import InputError
from .types import Candidates, Params, Steps

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Method:
    """A ranking method: its control flow, its parameters, and the prompt and scoring it uses unless told."""

    name: str
    run: Callable[[Candidates, Params], Steps]
    params: type[Params]
    summary: str


def methods() -> list[str]:
    """The names of all ranking methods, `family.algorithm`."""
    return _names(f"{path.parent.name}.{path.stem}" for path in (HERE / "methods").glob("*/*.py"))


def prompts() -> list[str]:
    """The names of all prompts that come with the package."""
    return _names(path.stem for path in (HERE / "prompts").glob("*.yaml"))


def backends() -> list[str]:
    """The names of all backends."""
    return _names(path.stem for path in (HERE / "backends").glob("*.py") if path.stem != "base")


def method(name: str) -> Method:
    """The ranking method of that name. Raises `InputError` with the nearest names where there is none."""
    known(name, methods(), "method")
    module = _module(f"methods.{name}")
    function = getattr(module, name.rpartition(".")[2])
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    return Method(name, function, cast("type[Params]", module.Params), summary)


def backend(name: str) -> ModuleType:
    """The module of that backend: `Options` says what it takes, `open` starts it."""
    known(name, backends(), "backend")
    return _module(f"backends.{name}")


def note(name: str) -> Callable[..., str]:
    """The function that computes the note of that name from a query, passages, and options by name."""
    known(name, _names(path.stem for path in (HERE / "notes").glob("*.py")), "note")
    function: Callable[..., str] = getattr(_module(f"notes.{name}"), name)
    return function


def prompt_file(name: str) -> Path:
    """The file of a prompt that comes with the package."""
    known(name, prompts(), "prompt")
    return HERE / "prompts" / f"{name}.yaml"


def known(name: str, names: Iterable[str], what: str) -> None:
    """Raise `InputError` with the nearest of the known names unless `name` is one of them."""
    names = list(names)
    if name not in names:
        raise InputError(f"unknown {what} '{name}'{nearest(name, names)}")


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """The remedy for a misspelt name: the known ones at least so like it, or all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=cutoff)
    likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in close]
    # Next to a slip of the pen, what is merely alike is not meant.
    close = [one for one, alike in zip(close, likeness, strict=True) if alike > likeness[0] - 0.3]
    if not close and len(names) > 30:
        some = sorted(names, key=len)[:3]
        return f"; `r2llm list` shows the {len(names)} there are, such as {', '.join(some)}"
    return f"; did you mean {' or '.join(repr(n) for n in close)}?" if close else f"; known: {', '.join(names)}"


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{name}")


def _names(stems: Iterable[str]) -> list[str]:
    return sorted(stem for stem in stems if stem.rpartition(".")[2][0] != "_")
