"""The results of a sweep, as `sweep.json` and `table.csv` hold them."""

import csv
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from ...rerankers.errors import InputError
from ..configs.load import Expected
from ..io.files import reason, replacing
from ..io.progress import Listener

FILE = "sweep.json"
TABLE = "table.csv"

COSTS = ("asks", "calls", "prompt_tokens", "completion_tokens", "flops", "usd")
"""The costs in a table: totals of a run."""

Status = Literal["done", "failed", "missing"]


class Outcome(BaseModel):
    """The result of a cell. `name` is what `--config` takes; `run_dir` leads from the sweep's folder."""

    name: str
    settings: dict[str, Any]
    run_dir: str | None = None
    fingerprint8: str | None = None
    status: Status = "missing"
    exit_code: int | None = None
    error: str | None = None
    simulated: bool = False
    queries: int = 0
    metrics: dict[str, float] = {}
    expected: dict[str, Expected] = {}
    costs: dict[str, dict[str, float | None]] = {}
    shared: int = 0
    """Answers taken from other runs, which are neither in `calls` nor in the seconds."""

    wall_seconds: float | None = None
    """Of ranking, all queries together."""

    @property
    def words(self) -> str:
        """Return its values on the axes, in a line."""
        return " ".join(map(str, self.settings.values()))

    def verdict(self, measure: str) -> str | None:
        """Return how a measure stands to its published figure, or None without both or with simulated answers."""
        if self.simulated or measure not in self.expected or measure not in self.metrics:
            return None
        return self.expected[measure].verdict(self.metrics[measure])


class Sweep(BaseModel):
    """The content of `sweep.json`. All cells were run with the same `--set` and `--queries`."""

    name: str
    axes: dict[str, list[Any]]
    settings: list[str] = []
    queries: int | None = None
    cells: list[Outcome]

    @property
    def measures(self) -> list[str]:
        """Return the measures that any cell has."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.metrics))

    def write(self, folder: Path) -> None:
        """Write both files, each all at once."""
        with replacing(folder / FILE) as stream:
            stream.write(self.model_dump_json(indent=2) + "\n")
        rows = self.rows()
        with replacing(folder / TABLE) as stream:
            table = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: a row for each cell, by column."""
        published = [name for name in self.measures if any(name in cell.expected for cell in self.cells)]
        rows = []
        for cell in self.cells:
            row = {"name": cell.name, **{axis: cell.settings.get(axis) for axis in self.axes}, "status": cell.status}
            row |= {"simulated": str(cell.simulated).lower(), "queries": cell.queries}
            row |= {name: cell.metrics.get(name) for name in self.measures}
            for name in published:
                figure = cell.expected.get(name)
                row |= {
                    f"published {name}": figure and figure.value,
                    f"tolerance of {name}": figure and figure.tolerance,
                }
                row[f"verdict on {name}"] = cell.verdict(name)
            row |= {cost: cell.costs.get(cost, {}).get("total") for cost in COSTS}
            row |= {"shared": cell.shared, "seconds": cell.wall_seconds}
            rows.append(row | cell.model_dump(include={"run_dir", "fingerprint8", "exit_code", "error"}))
        return rows


def run_dirs(folder: Path, listener: Listener) -> list[Path]:
    """Return the run folders of a sweep's cells that are done, each once; the listener hears how many are not."""
    cells = read(folder).cells
    done = [cell.run_dir for cell in cells if cell.status == "done" and cell.run_dir]
    if len(done) < len(cells):
        listener.note(f"{folder}: {len(cells) - len(done)} of {len(cells)} cells are not done and are left out")
    return [Path(os.path.normpath(folder / path)) for path in dict.fromkeys(done)]


def read(folder: Path) -> Sweep:
    """Return the sweep in a folder. Raises `InputError` if there is none, or its file is damaged."""
    try:
        return Sweep.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        remedy = "remove it and sweep again: runs are kept"
        raise InputError(f"{folder / FILE}: cannot be read: {reason(error)}; {remedy}") from error
