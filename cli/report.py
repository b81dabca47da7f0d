"""`r2llm report`: one page about runs, and its charts and tables for a paper."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..rerankers.errors import InputError
from . import console, options


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Runs, or the JSON file of a judge, probe or abstain."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page.")] = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Put each chart there too, as SVG and PDF.")
    ] = None,
    latex: Annotated[Path | None, typer.Option(metavar="DIR", help="Put each table there too, for LaTeX.")] = None,
    baseline: options.Baseline = None,
    measure: options.Measures = None,
    common: options.Common = False,
    query: Annotated[
        str | None, typer.Option(metavar="ID", help="Tell this query's story; else the one where runs differ most.")
    ] = None,
    qrels: options.Qrels = None,
    dataset: options.Judged = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a self-contained page: results, costs, differences, published figures, orders, positions, a story."""
    from ..pipeline.compare.comparison import Options
    from ..pipeline.compare.runs import Judgements
    from ..pipeline.report import page, sections

    if output.is_dir():
        raise InputError(f"--output {output}: is a folder; name a file, such as {output / 'report.html'}")
    asked = sections.Options(
        Judgements(qrels, dataset), measure or (), Options(baseline=baseline, common=common), query
    )
    groups = sections.groups(runs, asked, console.listener(quiet))
    page.write(groups, shlex.join(["r2llm", *sys.argv[1:]]), output)
    console.line(f"report: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    for what, folder, write in (("figures", figures, page.write_figures), ("tables", latex, page.write_latex)):
        if folder:
            console.line(f"{what}: {len(write(groups, folder))} files in {folder}")
