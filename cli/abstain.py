"""`r2llm abstain`: how well a method's scores tell its good rankings from its bad ones."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, options, results


def abstain(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, or a TREC file with its method's scores.")
    ],
    reference: Annotated[
        Path, typer.Option(metavar="RUN", help="A run of the same method over other queries, to learn from.")
    ],
    measure: Annotated[str, typer.Option(help="The quality of a ranking: any measure of ir-measures.")] = "nDCG@10",
    depth: Annotated[int, typer.Option(min=2, help="How many of a query's first scores are looked at.")] = 10,
    qrels: options.Qrels = None,
    dataset: options.Judged = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write abstain.json in this folder.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Leave out the queries that a method's scores are least confident about: quality of those kept, and nAUC.

    Only for methods that score documents, and for hundreds of queries.
    """
    from ..pipeline.compare.runs import Judgements
    from ..pipeline.io.files import save
    from ..pipeline.run.manifest import json_text
    from ..pipeline.studies import abstain as study

    content = study.abstain(run, reference, Judgements(qrels, dataset), measure, depth, console.listener(quiet))
    if output:
        save(output / "abstain.json", json_text(content))
    results.show_study(content, as_json=as_json)
