"""The configs that come with the package: their names, and the file of a name."""

from contextlib import suppress
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "configs"

NOT_EXPERIMENTS = ("parts/", "systems/", "grids/")  # configs to extend, and files that are many configs


def names() -> list[str]:
    """Return the names of the shipped configs that are whole experiments of their own."""
    return [name for name in files() if not name.startswith(NOT_EXPERIMENTS)]


def of_kind(kind: str) -> list[str]:
    """Return the names of the shipped `grids` or `systems`, without `.yaml`."""
    return [name.removesuffix(".yaml") for name in files() if name.startswith(f"{kind}/")]


def files() -> list[str]:
    """Return the names of all shipped YAML files."""
    return sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))


def datasets() -> list[str]:
    """Return the names of the shipped datasets."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/corpus.jsonl"))


def file(name: str, folder: Path) -> Path | None:
    """Return the YAML file of a path or name: in the folder, or else a shipped one; `.yaml` may be left out."""
    names = [name] if name.endswith((".yaml", ".yml")) else [name, f"{name}.yaml"]
    for candidate in [place / n for place in (folder, SHIPPED) for n in names]:
        with suppress(OSError):  # of a name that is too long, or a folder that may not be entered
            if candidate.is_file():
                return candidate
    return None
