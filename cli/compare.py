"""`r2llm compare`: runs side by side, with intervals, tests, effect sizes, costs, and what their configs differ in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..rerankers.errors import InputError
from . import options

if TYPE_CHECKING:
    from ..pipeline.compare.comparison import Comparison


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders, folders of these, or TREC files.")],
    baseline: options.Baseline = None,
    measure: options.Measures = None,
    test: Annotated[Literal["t", "wilcoxon", "permutation", "tukey"], typer.Option(help="The paired test.")] = "t",
    correction: Annotated[
        Literal["holm", "bh", "none"], typer.Option(help="For several pairs of one measure.")
    ] = "holm",
    equivalent_within: Annotated[
        float | None, typer.Option("--equivalent-within", metavar="D", min=0, help="Test equivalence within ±D (TOST).")
    ] = None,
    original: Annotated[
        str | None,
        typer.Option(metavar="BASELINE,RUN", help="Original runs: how far each run reproduces the second's effect."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Average runs that differ in this config key alone, such as first_stage.seed."
        ),
    ] = None,
    common: options.Common = False,
    qrels: options.Qrels = None,
    dataset: options.Judged = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="Each query's values too.")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="How far results depend on first_stage.order, instead.")
    ] = False,
    positions: Annotated[
        bool, typer.Option("--positions", help="Which slots of prompts shuffled runs' answers prefer, instead.")
    ] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare runs query by query: means with intervals, differences with tests, costs, similarity of rankings."""
    from ..pipeline.compare import comparison as comparisons
    from ..pipeline.compare import runs as loading
    from ..pipeline.compare import tables
    from . import console

    if sum((latex, markdown, as_csv, as_json)) > 1:
        raise InputError("give one of --latex, --markdown, --csv and --json")
    listener = console.listener(quiet)
    judgements = loading.Judgements(qrels, dataset)
    originals = [Path(path) for path in original.split(",")] if original else []
    if original and len(originals) != 2:
        raise InputError(f"--original {original}: name the original's baseline and its run, with a comma between them")
    loaded = loading.load([*runs, *originals], judgements, measure or (), listener)
    if sensitivity or positions:
        if (sensitivity and positions) or latex or original or group:
            raise InputError("give --sensitivity or --positions alone, or with --json, --csv or --markdown")
        from . import compare_orders

        form = "json" if as_json else "csv" if as_csv else "markdown" if markdown else "text"
        compare_orders.show(loaded, listener, form, of_positions=positions)
        return
    before, loaded = loaded[len(loaded) - len(originals) :], loaded[: len(loaded) - len(originals)]
    if group:
        loaded = loading.grouped(loaded, group)
    chosen = comparisons.Options(test, correction, baseline, equivalent_within, common)
    found = comparisons.compare(loaded if len(loaded) > 1 or not before else [*before[1:], *loaded], chosen, listener)
    reproductions = comparisons.reproductions(found, *before) if before else []
    if as_json:
        content = tables.as_json(found, per_query=per_query)
        console.as_json(content | ({"reproduction": [vars(each) for each in reproductions]} if before else {}))
    elif as_csv:
        console.block(tables.as_csv(found, per_query=per_query).rstrip())
    elif latex or markdown:
        console.block(tables.latex(found) if latex else tables.markdown(found))
    else:
        _show(found, per_query=per_query)
        if reproductions:
            console.table("reproduction of the original effect", *tables.reproductions(found, reproductions))


def _show(found: "Comparison", *, per_query: bool) -> None:
    from ..pipeline.compare import comparison as comparisons
    from ..pipeline.compare import tables
    from . import console

    console.table("means over queries", *tables.means(found))
    console.line(f"{tables.caption(found)}; >ab: significantly above runs a and b")
    for table in (*found.measures, *found.costs):
        if table.pairs:
            console.table(tables.label(table.name), *tables.pairs(found, table))
    console.table("how alike the rankings are", *tables.likeness(found))
    names = [run.name for run in found.runs]
    if per_query:
        for table in found.measures:
            columns = [run.measures[table.name] for run in found.runs]
            rows = [[query, *(f"{values.get(query, 0.0):.4f}" for values in columns)] for query in found.queries]
            console.table(table.name, ["query", *names], rows)
    if len(found.runs) == 2 and all(run.config for run in found.runs):
        differences = comparisons.config_differences(*found.runs)
        rows = [[key, *("-" if value is None else str(value) for value in values)] for key, *values in differences]
        console.table("what the configs differ in", ["key", *names], rows)
