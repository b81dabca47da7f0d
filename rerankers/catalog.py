"""Methods, prompts, backends and notes by name: a name is a file, so there is no registry to edit.

`setwise.heapsort` is the function `heapsort` in `methods/setwise/heapsort.py`, its parameters the class `Params`
beside it; the prompt `setwise` is `prompts/setwise.yaml`; the backend `simulated` is `backends/simulated.py`; the note
`spectral_summary` is the function of that name in `notes/spectral_summary.py`.
"""

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import cast

from .errors import InputError
from .types import Candidates, Params, Steps

HERE = Path(__file__).parent

FILES = {"method": "methods/*/*.py", "prompt": "prompts/*.yaml", "backend": "backends/*.py", "note": "notes/*.py"}
"""The files of each kind; those that begin with _, and `base`, are none."""


@dataclass(frozen=True, slots=True)
class Method:
    """A ranking method: its control flow and its parameters."""

    name: str
    run: Callable[[Candidates, Params], Steps]
    params: type[Params]
    summary: str


@cache
def names(kind: str) -> list[str]:
    """Return the names of all methods, prompts, backends or notes that come with the package."""
    paths = [path for path in HERE.glob(FILES[kind]) if path.stem[0] != "_" and path.stem != "base"]
    return sorted(f"{path.parent.name}.{path.stem}" if kind == "method" else path.stem for path in paths)


def method(name: str) -> Method:
    """Return the ranking method of that name. Raises `InputError` with the nearest names if there is none."""
    module = _module("method", name)
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    return Method(name, getattr(module, name.rpartition(".")[2]), cast("type[Params]", module.Params), summary)


def backend(name: str) -> ModuleType:
    """Return the module of that backend, which holds `Options` and `open`."""
    return _module("backend", name)


def note(name: str) -> Callable[..., str]:
    """Return the function that computes the note of that name from a query, passages, and options by name."""
    function: Callable[..., str] = getattr(_module("note", name), name)
    return function


def prompt_file(name: str) -> Path:
    """Return the file of a prompt that comes with the package."""
    known(name, names("prompt"), "prompt")
    return HERE / "prompts" / f"{name}.yaml"


def known(name: str, names: Iterable[str], kind: str) -> None:
    """Raise `InputError` with the nearest names of that kind unless `name` is one of them."""
    names = list(names)
    if name not in names:
        raise InputError(f"unknown {kind} '{name}'{nearest(name, names, listed=f'{kind}s')}")


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5, listed: str = "") -> str:
    """Return the remedy for a misspelt name: the names that are at least so similar, or all of them.

    Of many, some are named, and the list that shows the others, `listed` of `r2llm list`, if there is one.
    """
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=cutoff)
    likeness = [difflib.SequenceMatcher(None, match, name).ratio() for match in close]
    # Beside a typing error, what is merely similar is not meant.
    close = [match for match, ratio in zip(close, likeness, strict=True) if ratio > likeness[0] - 0.3]
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    if len(names) > 30:
        there_are = f"`r2llm list {listed}` shows the {len(names)} there are" if listed else f"there are {len(names)}"
        return f"; {there_are}, such as {', '.join(sorted(names, key=len)[:3])}"
    return f"; known: {', '.join(names)}"


def _module(kind: str, name: str) -> ModuleType:
    known(name, names(kind), kind)
    return importlib.import_module(f"{__package__}.{kind}s.{name}")
