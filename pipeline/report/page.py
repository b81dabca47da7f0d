"""The page: sections in HTML with charts that work without JavaScript, and the same as SVG, PDF and LaTeX files."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...rerankers.errors import InputError
from ..io.files import reason, save
from ..io.tables import Table, file_name, some
from . import charts
from .charts import Chart

CSP = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
"""The policy by which a browser lets nothing leave the page, and load nothing."""

NUMBER = re.compile(r"[-+<]?\s?[\d,.]+(e[-+]?\d+)?%?|-|")
"""A cell of a column of numbers."""

SHORT = 48
"""Characters of the longest text in a column that is not broken into lines."""


@dataclass(frozen=True)
class Section:
    """A part of a report: the command that prints the same figures, then notes, charts, tables and stories."""

    title: str
    command: str
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    stories: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Group:
    """The sections about runs of the same queries and judgements."""

    title: str
    simulated: Sequence[str]
    sections: list[Section] = field(default_factory=list)


def write(groups: Sequence[Group], command: str, path: Path) -> None:
    """Write the page; the same runs and command give the same bytes. Raises `InputError` if it cannot be written."""
    import vl_convert
    from jinja2 import Environment, PackageLoader

    plots = [chart for _, chart in _charts(groups)]
    place = {id(chart): number for number, chart in enumerate(plots)}
    svgs = [vl_convert.vegalite_to_svg({**chart.spec, "width": charts.WIDTH}) for chart in plots]
    page = Environment(loader=PackageLoader(__name__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"styles": _styles, "place": lambda chart: place[id(chart)], "some": some}
    content = page.get_template("page.html").render(
        groups=groups,
        command=command,
        version=__version__,
        csp=CSP,
        light=charts.LIGHT,
        dark=charts.DARK,
        svgs=svgs,
        specs=_island([chart.spec for chart in plots]),
        bundle=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed").replace("</script", "<\\/script"),
    )
    save(path, content)


def write_figures(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write each chart as SVG and PDF, and return the files. Raises `InputError` if a folder cannot be written."""
    import vl_convert

    files = dict[str, bytes]()
    for name, chart in _charts(groups):
        spec = charts.for_paper(chart.spec)
        files[f"{name}.svg"] = vl_convert.vegalite_to_svg(spec).encode()
        files[f"{name}.pdf"] = vl_convert.vegalite_to_pdf(spec)
    return _write(folder, files)


def write_latex(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write each table as a booktabs table, and return the files. Raises `InputError` if a folder cannot be written."""
    tables = _numbered(groups, [[table for section in group.sections for table in section.tables] for group in groups])
    return _write(folder, {f"{name}.tex": (table.latex + "\n").encode() for name, table in tables})


def _charts(groups: Sequence[Group]) -> list[tuple[str, Chart]]:
    return _numbered(groups, [[chart for section in group.sections for chart in section.charts] for group in groups])


def _numbered(groups: Sequence[Group], items: Sequence[Sequence[Any]]) -> list[tuple[str, Any]]:
    """Return charts or tables by the names of their files, which begin with the group's number if there are several."""
    several = len(groups) > 1
    return [
        ((f"{number}-" if several else "") + file_name(item.name), item)
        for number, of_group in enumerate(items, 1)
        for item in of_group
    ]


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {reason(error)}") from error
    return [folder / name for name in files]


def _island(specs: Sequence[Any]) -> str:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(specs, sort_keys=True, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _styles(table: Table) -> list[str]:
    """Return each column's class: `n` for numbers, to the right, `s` for short texts, which are not broken, or none."""
    styles = []
    for column in range(len(table.header)):
        cells = [row[column] for row in table.rows]
        numbers = column > 0 and all(map(NUMBER.fullmatch, cells))
        styles.append("n" if numbers else "s" if max(map(len, cells), default=0) <= SHORT else "")
    return styles
