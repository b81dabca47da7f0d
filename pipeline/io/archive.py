"""Zip files of packed runs, unpacked in the cache folder."""

import shutil
import zipfile
from pathlib import Path

from ...rerankers.errors import InputError
from ...rerankers.hashing import cache_folder, file_digest
from .files import reason

REPLAY = "replay"
"""The folder, in a packed run's, of the config and the texts that rank it again without its model."""


def unpacked(path: Path) -> dict[str, Path]:
    """Return the run folders in a pack by name. Raises `InputError` if the file is no pack."""
    if not path.is_file():
        raise InputError(f"no file {path}")
    folder = cache_folder() / "packs" / file_digest(path)[:32]
    try:
        if not folder.is_dir():
            temporary = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            with zipfile.ZipFile(path) as archive:
                archive.extractall(temporary)  # which leaves out `..` and roots
            temporary.rename(folder)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no pack of runs ({reason(error)}); r2llm pack makes one") from error
    runs = {config.parents[1].name: config.parents[1] for config in sorted(folder.glob(f"*/{REPLAY}/config.yaml"))}
    if not runs:
        raise InputError(f"{path}: no run is packed in it; r2llm pack makes a pack of runs")
    return runs


def config(name: str) -> str:
    """Return the path of the config that replays a packed run, for the name `x.zip` or `x.zip/RUN`."""
    file, _, run = name.partition(".zip")
    runs, run = unpacked(Path(f"{file}.zip")), run.strip("/")
    if run not in runs and (run or len(runs) != 1):
        raise InputError(f"{name}: say which run to replay: {', '.join(f'{file}.zip/{each}' for each in runs)}")
    return str(runs[run or next(iter(runs))] / REPLAY / "config.yaml")
