"""A table, and how it reads in Markdown, LaTeX and CSV: terminal, page and files print the same one."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SIMULATED = "simulated answers: not a model's result"

ENERGY = {f"{device}_joules": f"{device.upper()} energy, J" for device in ("cpu", "ram", "gpu")}

NOT_ALWAYS_KNOWN = {"flops": "FLOPs", "usd": "USD", **ENERGY}

LABELS = {"prompt_tokens": "prompt tokens", "completion_tokens": "completion tokens", **NOT_ALWAYS_KNOWN}

FORMS = {"seconds": "{:.3f}", "flops": "{:.3e}", "usd": "{:.6f}"}
"""The formats of costs that are not counts."""

LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
LATEX |= {"τ": r"$\tau$", "Δ": r"$\Delta$", "κ": r"$\kappa$", "→": r"$\to$", "≤": r"$\leq$", "≥": r"$\geq$"}


@dataclass(frozen=True)
class Table:
    """A table, its name, and what a reader is told about it."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    booktabs: str = ""
    """The LaTeX table, if it is not made of the rows."""

    @property
    def markdown(self) -> str:
        """Return it in Markdown, its caption below."""
        rows = (self.header, ["---"] * len(self.header), *self.rows)
        lines = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in rows]
        text = "\n".join(f"| {line} |" for line in lines)
        return f"{text}\n\n{self.caption}" if self.caption else text

    @property
    def csv(self) -> str:
        """Return it as comma-separated values."""
        return as_csv([self.header, *self.rows])

    @property
    def latex(self) -> str:
        """Return it as a booktabs table."""
        rows = [[tex(cell) for cell in row] for row in (self.header, *self.rows)]
        return self.booktabs or booktabs("l" * len(self.header), rows, tex(self.caption))


def as_csv(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as comma-separated values."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def booktabs(columns: str, rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a booktabs table of a header and rows in LaTeX."""
    # After the end of a row LaTeX takes a star or a bracket for an option of it.
    starts = ("{}" if cells[0].startswith(("[", "*")) else "" for cells in rows)
    header, *lines = (start + " & ".join(cells) + r" \\" for start, cells in zip(starts, rows, strict=True))
    start = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule"]
    end = [r"\bottomrule", r"\end{tabular}", *([rf"\caption{{{caption}}}"] if caption else []), r"\end{table}"]
    return "\n".join([*start, *lines, *end])


def tex(text: str) -> str:
    """Return a text in LaTeX."""
    return "".join(LATEX.get(character, character) for character in text)


def label(name: str) -> str:
    """Return the name of a measure or cost as tables show it."""
    return LABELS.get(name, name)


def number(value: float | None) -> str:
    """Return a value with four digits, or `-` for None."""
    return "-" if value is None else f"{value:.4f}"


def some(names: Sequence[str]) -> str:
    """Return the first six of some names, and how many more there are."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def alike(notes: Iterable[str]) -> list[str]:
    """Return the notes `WHERE: WHAT`; of those that differ in place and numbers alone the first, and where the rest."""
    kinds: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        what = note.partition(": ")[2] or note
        kinds.setdefault(re.sub(r"(\S*\d\S*\s*)+", "0", what), []).append(note)
    rest = {first: [note.partition(": ")[0] for note in others] for first, *others in kinds.values()}
    return [f"{first}; likewise, {len(of)} more: {some(of)}" if of else first for first, of in rest.items()]


def marked(text: str, simulated: Sequence[str]) -> str:
    """Return a caption that names the runs whose answers were simulated."""
    return f"{text}{' ' if text else ''}{SIMULATED.capitalize()}: {some(simulated)}." if simulated else text


def file_name(name: str) -> str:
    """Return the name of a table, measure or cost as part of a file's name."""
    return "".join(character if character.isalnum() else "-" for character in name).strip("-").lower()
