"""`r2llm compare`: runs side by side, with intervals, tests, effect sizes, costs, and what their configs differ in."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..rerankers.errors import InputError
from . import console, options


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
    from ..pipeline.compare import positions as slots
    from ..pipeline.compare import runs as loading
    from ..pipeline.compare import sensitivity as orders
    from ..pipeline.compare import tables

    if sum((latex, markdown, as_csv, as_json)) > 1:
        raise InputError("give one of --latex, --markdown, --csv and --json")
    listener = console.listener(quiet)
    judgements = loading.Judgements(qrels, dataset)
    originals = [Path(path) for path in original.split(",")] if original else []
    if original and len(originals) != 2:
        raise InputError(f"--original {original}: name the original's baseline and its run, with a comma between them")
    loaded = loading.load(runs, judgements, measure or (), listener, originals)
    if sensitivity or positions:
        if (sensitivity and positions) or original or group:
            raise InputError("give --sensitivity or --positions alone, without --original and --group")
        rows: Any
        rows, notes = slots.positions(loaded) if positions else orders.sensitivity(loaded)
        for note in notes:
            listener.note(note)
        shown = [slots.table(rows) if positions else orders.table(rows)]
        if as_json:
            name = "positions" if positions else "sensitivity"
            console.as_json({name: list(map(dataclasses.asdict, rows)), "notes": notes})
            return
        values = shown[0].csv if as_csv else ""
    else:
        before, loaded = loaded[len(loaded) - len(originals) :], loaded[: len(loaded) - len(originals)]
        if group:
            count, loaded = len(loaded), loading.grouped(loaded, group)
            alike = "; rankings are compared by the first run of each" if len(loaded) < count else ""
            listener.note(f"--group {group}: {len(loaded)} groups of {count} runs{alike}")
        chosen = comparisons.Options(test, correction, baseline, equivalent_within, common)
        loaded = loaded if len(loaded) > 1 or not before else [*before[1:], *loaded]
        compared = comparisons.compare(loaded, chosen, listener)
        reproductions = comparisons.reproductions(compared, *before) if before else []
        if as_json:
            content = tables.as_json(compared, per_query=per_query)
            console.as_json(content | ({"reproduction": [vars(each) for each in reproductions]} if before else {}))
            return
        values = tables.as_csv(compared, per_query=per_query) if as_csv else ""
        shown = [] if as_csv else list(tables.every(compared, reproductions, per_query=per_query))
    if as_csv or latex or markdown:
        text = values if as_csv else shown[0].latex if latex else "\n\n".join(table.markdown for table in shown)
        console.block(text.rstrip())
    else:
        console.tables(shown)
