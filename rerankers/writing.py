"""Files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new name beside `path`; the file that the block writes there takes its place when the block ends.

    It is forced to the disk and renamed, so that neither an error, a full disk nor a power cut leaves half a file.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().int}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
