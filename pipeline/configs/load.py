"""Configs by name: those that come with the package, those in files, and the cells of grids."""

from collections.abc import Sequence
from pathlib import Path

from ..io import archive
from ..io.progress import Listener
from . import grid
from .loaded import Loaded, paths
from .schema import FIRST_STAGE, Config, DatasetMark, Expected, Queries, Stage
from .shipped import SHIPPED, datasets, files, names

__all__ = ["FIRST_STAGE", "SHIPPED", "Config", "DatasetMark", "Expected", "Loaded", "Queries", "Stage"]
__all__ += ["datasets", "files", "load", "names", "of_run", "paths"]


def load(name: str, settings: Sequence[str] = (), queries: int | None = None) -> Loaded:
    """Return the config of that path, shipped name or packed run, with `--set` and `--queries` laid over it.

    Raises `InputError` that names file, line, the key, and the nearest known key.
    """
    return grid.cell(archive.config(name) if ".zip" in name else name).load(settings, queries)


def of_run(run_dir: Path) -> Loaded:
    """Return the config in a run's folder, whose paths lead from there. Raises as `load` does."""
    return load(str((run_dir / "config.yaml").resolve()))


def load_noting(name: str, settings: Sequence[str], queries: int | None, listener: Listener) -> Loaded:
    """Return what `load` does; the listener hears the notes. Raises as `load` does."""
    loaded = load(name, settings, queries)
    for note in loaded.notes:
        listener.note(note)
    return loaded
