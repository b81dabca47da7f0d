"""Shell completion of values. Nothing is imported before a value is asked for.

Typer leaves out what does not begin with what was typed.
"""

import glob
from pathlib import Path


def configs(incomplete: str) -> list[str]:
    """Return shipped experiments and systems by name, and YAML files by path."""
    from ..pipeline.configs import shipped

    return [
        *shipped.names(),
        *shipped.grids(),
        *shipped.systems(),
        *(path for path in _paths(incomplete) if path.endswith((".yaml", ".yml"))),
    ]


def datasets(incomplete: str) -> list[str]:
    """Return the datasets that the shipped configs name, and BEIR folders by path."""
    from ..pipeline import listing
    from ..pipeline.datasets.local import is_beir_folder

    named = [name for name, _ in listing.rows("datasets") if "/" in name and not name.startswith(".")]
    return [*named, *(path for path in _paths(incomplete) if is_beir_folder(Path(path)))]


def _paths(incomplete: str) -> list[str]:
    """Return the paths that begin with the typed text, and the contents of such folders, without hidden files."""
    begun = glob.escape(incomplete)
    return sorted(glob.glob(f"{begun}*") + glob.glob(f"{begun}*/*"))  # noqa: PTH207 - paths stay as they were typed
