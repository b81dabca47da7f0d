"""Zip files of packed runs, unpacked in the cache folder."""

import json
import shutil
import zipfile
from pathlib import Path

from ...rerankers.errors import InputError
from ...rerankers.hashing import cache_folder, file_digest
from .files import reason

CRATE = "ro-crate-metadata.json"
"""The file that says what is in a pack; see https://w3id.org/ro/crate."""

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
        crate = json.loads((folder / CRATE).read_text(encoding="utf-8"))["@graph"]
        names = [
            one["@id"].rstrip("/") for one in crate if one.get("additionalType") == "run" and ".." not in one["@id"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no pack of runs ({reason(error)}); r2llm pack makes one") from error
    return {name: folder / name for name in names if ".." not in name}


def config(name: str) -> str:
    """Return the path of the config that replays a packed run, for the name `x.zip` or `x.zip/RUN`."""
    file, _, run = name.partition(".zip")
    runs, run = unpacked(Path(f"{file}.zip")), run.strip("/")
    if run not in runs and (run or len(runs) != 1):
        raise InputError(f"{name}: say which run to replay: {', '.join(f'{file}.zip/{each}' for each in runs)}")
    return str(runs[run or next(iter(runs))] / REPLAY / "config.yaml")
