"""A hook of MkDocs: the README and CONTRIBUTING.md are pages too, beside those of docs/."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages at the root, their links as they lead from docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        text = re.sub(r"\]\((README|CONTRIBUTING)\.md", lambda link: f"]({PAGES[link[1] + '.md']}", text)
        files.append(File.generated(config, page, content=text))
    return files
