"""Shell completion of values. Nothing is imported before a value is asked for.

Typer leaves out what does not begin with what was typed.
"""

import glob


def configs(incomplete: str) -> list[str]:
    """Return shipped experiments and systems by name, and YAML files by path."""
    from ..pipeline.configs import shipped

    begun = glob.escape(incomplete)
    paths = sorted(glob.glob(f"{begun}*") + glob.glob(f"{begun}*/*"))  # noqa: PTH207 - paths stay as they were typed
    files = [path for path in paths if path.endswith((".yaml", ".yml"))]
    return [*shipped.names(), *shipped.of_kind("grids"), *shipped.of_kind("systems"), *files]
