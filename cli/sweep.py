"""`r2llm sweep`: all cells of a grid, or of ad-hoc axes."""

import shlex
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..rerankers.errors import InputError, StoppedError
from . import console, options

if TYPE_CHECKING:
    from ..pipeline.configs.grid import Grid
    from ..pipeline.run.sweeps import Sweep

COSTS = ("asks", "calls", "seconds")

STATUSES = ("failed", "missing")
"""The words of --retry for what earlier sweeps left."""


def sweep(
    grid: Annotated[str | None, typer.Argument(metavar="GRID", help="A grid: a file, or a shipped one.")] = None,
    config: Annotated[list[str] | None, options.config("Instead of a grid: a config to vary. Repeatable.")] = None,
    axis: Annotated[
        list[str] | None, typer.Option("--axis", metavar="KEY=V1,V2", help="Values of a key to vary. Repeatable.")
    ] = None,
    only: options.Only = None,
    retry: Annotated[
        str | None,
        typer.Option("--retry", metavar="failed|missing", help="Only the cells that failed, or were not run."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate each cell and the sum; run nothing.")] = False,
    jobs: options.Jobs = None,
    launcher: options.Launcher = None,
    resources: options.Resources = None,
    ray_address: options.RayAddress = None,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: Annotated[
        Any,
        typer.Option(
            "--output", metavar="DIR", parser=options.folder, help="Put results and runs there, not in runs/."
        ),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run all cells of a grid, and print a table.

    A finished cell is never run again, and one that fails stops nothing: the same command goes on after any
    interruption. Results are in sweep.json and table.csv in runs/NAME/, anew after each cell. Models are kept open
    from cell to cell; with --jobs, or --launcher for a cluster that shares this disk, each cell is a process of its
    own. Exit code 1 if a cell failed.
    """
    from ..pipeline import sweep as sweeping

    if retry not in (None, *STATUSES):
        raise InputError(f"--retry {retry}: give one of {' and '.join(STATUSES)}")
    chosen = _grid(grid, config or [], axis or [])
    names = {cell.name for cell in chosen.only(only or ()).cells}
    numbers = [number for number, cell in enumerate(chosen.cells) if cell.name in names]
    launch = options.launch(launcher or ("local" if (jobs or 1) > 1 else None), jobs, resources, ray_address)
    order = sweeping.Order(chosen, numbers, settings or (), queries, output, cast(Any, retry), launch)
    listener = console.listener(quiet)
    if dry_run:
        foreseen = sweeping.foresee(order, listener)
        console.as_json(foreseen) if as_json else _show_estimates(foreseen)
        failed = any("error" in cell for cell in foreseen["cells"])
    else:
        try:
            swept = sweeping.sweep(order, listener)
        except StoppedError as error:
            raise StoppedError(f"{error}; to go on, run {shlex.join(['r2llm', *sys.argv[1:]])}") from None
        console.as_json(swept.model_dump(mode="json") | {"folder": str(order.place)}) if as_json else _show(swept)
        if not as_json:
            console.line(f"results: {order.place / 'sweep.json'}, {order.place / 'table.csv'}")
        failed = any(cell.status == "failed" for cell in swept.cells)
    if failed:
        raise typer.Exit(1)


def _grid(grid: str | None, configs: list[str], axes: list[str]) -> "Grid":
    from ..pipeline.configs import grid as grids

    if (grid is None) == (not configs) or (grid and axes):
        raise InputError(
            "sweep takes a grid, or --config with --axis: r2llm sweep --config quickstart.yaml --axis seed=0,1"
        )
    if grid is not None:
        return grids.read(grid)
    if not axes:
        raise InputError("--config needs --axis KEY=V1,V2: what is to be varied")
    return grids.ad_hoc(configs, axes)


def _show(sweep: "Sweep") -> None:
    from .results import number

    table = sweep.rows()
    published = [name for name in sweep.measures if table and f"published {name}" in table[0]]
    rows = []
    for row in table:
        cells = [str(row[axis]) for axis in sweep.axes]
        cells.append(row["status"] + (", simulated" if row["simulated"] == "true" else ""))
        cells += ["-" if row[name] is None else f"{row[name]:.4f}" for name in sweep.measures]
        for name in published:
            value, tolerance, verdict = (row[f"{what} {name}"] for what in ("published", "tolerance of", "verdict on"))
            cells.append("-" if value is None else f"{value:g} ± {tolerance:g}{f', {verdict}' if verdict else ''}")
        rows.append([*cells, *(number(name, row[name]) for name in COSTS)])
    figures = [f"published {name}" for name in published]
    console.table(sweep.name, [*sweep.axes, "status", *sweep.measures, *figures, *COSTS], rows)
    if count := sum(cell.simulated for cell in sweep.cells):
        console.line(f"{count} of {len(rows)} cells have simulated answers: no model's results")
    if shared := sum(cell.shared for cell in sweep.cells):
        console.line(
            f"{shared:,} answers were taken from other runs: they are not in `calls`, and cost no model's time"
        )
    _show_errors((cell.name, cell.error) for cell in sweep.cells)


def _show_errors(errors: Iterable[tuple[str, str | None]]) -> None:
    for name, error in errors:
        if error:
            console.line(f"FAILED {name}: {error}")


def _show_estimates(content: dict[str, Any]) -> None:
    from ..pipeline.io.tables import label
    from .results import number

    names = [name for name, figures in content["costs"].items() if figures["total"] is not None]
    rows = []
    for cell in [*content["cells"], {"settings": {}, "status": "sum", "costs": content["costs"]}]:
        row = [str(cell["settings"].get(axis, "")) for axis in content["axes"]]
        costs = cell.get("costs", {})
        row += ["cannot be estimated" if "error" in cell else cell["status"]]
        rows.append([*row, *(number(name, costs[name]["total"]) if costs else "-" for name in names)])
    header = [*content["axes"], "status", *map(label, names)]
    console.table(f"estimated cost of {content['name']}", header, rows)
    console.line("equal asks of different cells count in each here, and are asked once")
    _show_errors((cell["name"], cell.get("error")) for cell in content["cells"])
