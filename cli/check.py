"""`r2llm check`: run experiments again and compare them with baselines or with published figures."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, options


def check(
    config: Annotated[
        list[str], options.config("A YAML file or a shipped config; with --expected also a grid. Repeatable.")
    ],
    baseline: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="The baseline of each --config: a JSON file, or a run's folder."),
    ] = None,
    expected: Annotated[bool, typer.Option("--expected", help="Compare a full run with published figures.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Write the baseline anew; its tolerances are kept.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as JUnit XML too.")] = None,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run experiments and compare each with its baseline; exit with 1 and say what moved if one has changed.

    Tolerances stand in the baseline, to be edited: `measures` (of a mean), `costs` (a share of the total: 0.05 is five
    per cent), `queries` (how many may move). With several configs, --output holds a folder for each, and the highest
    exit code counts.
    """
    from ..pipeline.compare import check as checks
    from ..pipeline.run import baseline as baselines
    from ..rerankers.errors import InputError
    from . import check_report

    if expected == bool(baseline):
        raise InputError("check needs one of --baseline FILE and --expected")
    plan = checks.Plan(tuple(config), tuple(baseline or ()), update, tuple(settings or ()), queries, output)
    results = []
    for result in checks.check_each(plan, console.listener(quiet)):
        results.append(result)
        if result.error:
            console.error(f"{result.name}: {result.error}" if len(config) > 1 else str(result.error))
        for text in () if as_json else check_report.lines(result):
            console.line(text)
    if as_json:
        console.as_json(check_report.as_json(results))
    if junit is not None:
        baselines.save(junit, check_report.junit(results))
    raise typer.Exit(max(result.exit_code for result in results))
