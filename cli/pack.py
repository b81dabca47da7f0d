"""`r2llm pack`: runs, or a sweep's, in one file that can be verified and replayed elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from ..rerankers.errors import InputError
from . import console, options


def pack(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders, or the folder of a sweep.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The zip file.")],
    texts: Annotated[
        bool, typer.Option("--texts", help="Put the texts in: the dataset's licence lets you pass them on.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Pack runs with all answers of their models: `verify x.zip` checks them, `rerank --config x.zip` replays them.

    No model is needed for either. Queries, judgements and candidates' texts of the embedded collection are in it, of
    others with --texts; without them, a replay needs the dataset.
    """
    from ..pipeline.compare.runs import expanded
    from ..pipeline.run import pack as packing
    from ..pipeline.run import sweeps
    from ..pipeline.verify import verify

    if output.suffix != ".zip":
        raise InputError(f"--output {output}: the name of a zip file is needed")
    listener = console.listener(quiet)
    folders = list(dict.fromkeys(place for path in runs for place in expanded(path, listener)))
    for folder in folders:
        for check in verify(folder, listener, alone=True):
            if check.state == "differs":
                raise InputError(f"{folder / check.file}: {check.what}: {check.detail}; only intact runs are packed")
    beside = [path / name for path in runs for name in (sweeps.FILE, sweeps.TABLE) if (path / name).is_file()]
    size = packing.pack(folders, output, texts, listener, beside)
    console.line(f"{len(folders)} run{'s' * (len(folders) != 1)} in {output} ({size / 1e6:.1f} MB)")
