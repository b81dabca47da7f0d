"""A comparison as tables: rows for people and Markdown, LaTeX with letters, CSV, and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..configs.load import Expected
from ..run.measures import EXACT
from .baseline import COSTS as COUNTS
from .baseline import TOP
from .changes import Change, QueryMove, some
from .comparison import ALPHA, Comparison, Pair, Reproduction, Table, config_differences
from .statistics import CONFIDENCE

CORRECTIONS = {"holm": "Holm", "bh": "Benjamini-Hochberg", "none": "none"}
TESTS = {
    "t": "two-sided paired t-test",
    "wilcoxon": "two-sided Wilcoxon signed-rank test",
    "permutation": "two-sided permutation test (100,000 sign flips)",
    "tukey": "two-way Tukey HSD",
}
LABELS = {"prompt_tokens": "prompt tokens", "completion_tokens": "completion tokens", "flops": "FLOPs", "usd": "USD"}
LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}

Rows = list[list[str]]


def caption(comparison: Comparison) -> str:
    """Return the sentence that names test, correction, alpha and the number of queries."""
    options = comparison.options
    correction = "" if options.test == "tukey" else f", correction {CORRECTIONS[options.correction]}"
    simulated = f"; SIMULATED answers: {some(comparison.simulated)}" if comparison.simulated else ""
    return f"{len(comparison.queries)} queries; {TESTS[options.test]}{correction}, alpha = {ALPHA}{simulated}"


def letter(number: int) -> str:
    """Return the letters of a run, from 0: a to z, then aa, ab, …"""
    before = letter(number // 26 - 1) if number >= 26 else ""
    return before + chr(ord("a") + number % 26)


def means(comparison: Comparison) -> tuple[list[str], Rows]:
    """Return a row a run: its letter, its name, each measure's mean with interval, and mean costs."""
    header = ["", "run", *(table.name for table in comparison.measures), *(label(t.name) for t in comparison.costs)]
    above_of = {table.name: superiors(table, comparison) for table in comparison.measures}
    rows = []
    for number, run in enumerate(comparison.runs):
        row = [letter(number), run.name + (" (simulated)" if run.simulated else "")]
        for table in comparison.measures:
            span = table.intervals[run.name]
            above = "".join(above_of[table.name][run.name])
            row.append(f"{table.means[run.name]:.4f}{f' >{above}' if above else ''} [{span.low:.4f}, {span.high:.4f}]")
        rows.append([*row, *(_cost(table.name, table.means[run.name]) for table in comparison.costs)])
    return header, rows


def superiors(table: Table, comparison: Comparison) -> dict[str, list[str]]:
    """Return for each run the letters of the runs that it is significantly above."""
    letters = {run.name: letter(number) for number, run in enumerate(comparison.runs)}
    below: dict[str, list[str]] = {name: [] for name in letters}
    for pair in table.pairs:
        if pair.significant:
            winner, loser = (pair.b, pair.a) if pair.diff > 0 else (pair.a, pair.b)
            below[winner].append(letters[loser])
    return {name: sorted(each, key=lambda one: (len(one), one)) for name, each in below.items()}


def pairs(comparison: Comparison, table: Table) -> tuple[list[str], Rows]:
    """Return a row a pair of runs: difference, interval, p-values, effect size, wins, ties, losses, and verdict."""
    header = [
        label(table.name),
        "difference",
        f"{CONFIDENCE:.0%} interval",
        "p",
        "p adjusted",
        "d_z",
        "wins/ties/losses",
        "verdict",
    ]
    if comparison.options.margin is not None:
        header.append(f"equivalent within {comparison.options.margin:g}")
    number = _number if table in comparison.measures else lambda value: f"{value:+,.4g}"
    rows = []
    for pair in table.pairs:
        row = [
            f"{pair.a} → {pair.b}",
            number(pair.diff),
            f"[{number(pair.ci.low)}, {number(pair.ci.high)}]",
            p_text(pair.p, comparison),
            p_text(pair.p_adjusted, comparison),
            "-" if pair.effect is None else f"{pair.effect:.3f}",
            f"{len(pair.wins)}/{pair.ties}/{len(pair.losses)}",
            _verdict(pair, number),
        ]
        if pair.equivalent_p is not None:
            row.append(
                f"{'yes' if pair.equivalent_p < ALPHA else 'not shown'}, p {p_text(pair.equivalent_p, comparison)}"
            )
        rows.append(row)
    return header, rows


def _verdict(pair: Pair, number: Any) -> str:
    if pair.significant:
        return "significant"
    margin, least = (size and number(size).removeprefix("+") for size in (pair.equivalent_within, pair.detectable))
    detectable = "" if pair.detectable is None else f"; these queries show differences from {least}"
    return f"not significant{detectable}; equivalent within {margin}"


def likeness(comparison: Comparison) -> tuple[list[str], Rows]:
    """Return a row a pair of runs: how alike their rankings are."""
    rows = [
        [f"{a} → {b}", "-" if like.tau is None else f"{like.tau:.3f}", f"{like.rbo:.3f}", f"{like.overlap:.3f}"]
        for (a, b), like in comparison.likeness.items()
    ]
    return ["runs", "Kendall's τ", "RBO (p 0.9)", "overlap@10"], rows


def change(change: Change) -> str:
    """Return what a measure or a cost was and is, its tolerance, and which queries changed by how much."""
    count, before, after, amount = change.name in COUNTS, change.before, change.after, change.amount or 0.0
    decimals = 0 if count else 6 if EXACT < amount < 0.0005 else 4
    then, now = ("-" if value is None else f"{value:,.{decimals}f}" for value in (before, after))
    share = f"; {amount / before:.1%} moved" if count and before else ""
    signed = "" if before is None or after is None else f" ({after - before:+,.{decimals}f}{share})"
    tolerance = f"{change.tolerance:.1%}" if count else f"{change.tolerance:g}"
    queries = some([f"{query} {by:+,.{decimals}f}" for query, by in change.by_query.items()])
    return f"{then} → {now}{signed}, tolerance {tolerance}" + (f": {queries}" if queries else "")


def move(move: QueryMove) -> str:
    """Return which of a query's first documents moved from where to where, and what its measures were and are."""
    docs = [f"{doc.doc} {doc.before or f'outside {TOP}'} → {doc.after or 'gone'}" for doc in move.docs]
    rest = f"documents moved below rank {TOP} only" if move.reranked else "ranked as before: the judgements changed"
    figures = {name: ["-" if x is None else f"{x:.4f}" for x in pair] for name, pair in move.measures.items()}
    return "; ".join([some(docs) or rest, *(f"{name} {' → '.join(pair)}" for name, pair in figures.items())])


def published(change: Change, figure: Expected) -> str:
    """Return whether a measure is within tolerance of its published figure, and both."""
    verdict = f"out of tolerance, by {change.amount:.4f}" if change.beyond else "within tolerance"
    # At least the three decimals that papers print: YAML does not keep the last zero of 0.670.
    value, tolerance = (f"{x:.3f}" if x == round(x, 3) else f"{x:g}" for x in (figure.value, figure.tolerance))
    return f"{verdict}: {change.name} {change.after:.4f}, published {value} ± {tolerance} ({figure.source})"


def reproductions(comparison: Comparison, found: Sequence[Reproduction]) -> tuple[list[str], Rows]:
    """Return a row a run and measure: how far it reproduces the original effect."""
    rows = []
    for one in found:
        ratios = (one.effect_ratio, one.relative_improvement_change)
        undefined = ["undefined" if ratio is None else f"{ratio:.4f}" for ratio in ratios]
        rows.append([one.run, one.measure, f"{one.rmse:.4f}", *undefined, p_text(one.p, comparison)])
        rows[-1].append(f"{one.equivalent_within:.4f}")
    return ["run", "measure", "RMSE", "effect ratio", "ΔRI", "p", "equivalent within"], rows


def p_text(p: float, comparison: Comparison) -> str:
    """Return a p-value, `< 2e-5` where a sampled permutation test can say no more, and `-` where undefined."""
    if math.isnan(p):
        return "-"
    if comparison.options.test == "permutation" and p <= 2e-5 and len(comparison.queries) > 16:
        return "< 2e-5"
    return f"{p:.4f}" if p >= 0.001 else f"{p:.2e}"


def markdown(comparison: Comparison) -> str:
    """Return the means, and each measure's pairs, as Markdown tables."""
    parts = [markdown_table(*means(comparison)), f"{caption(comparison)}. `>ab`: significantly above runs a and b."]
    parts += [
        f"**{table.name}**\n\n{markdown_table(*pairs(comparison, table))}"
        for table in comparison.measures
        if table.pairs
    ]
    return "\n\n".join(parts)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def latex(comparison: Comparison) -> str:
    """Return a booktabs table of measures and costs.

    Best means are bold after rounding, ties all bold; letters are of runs significantly below.
    """
    tables = (*comparison.measures, *comparison.costs)
    rounded = {table.name: {run: f"{mean:.4f}" for run, mean in table.means.items()} for table in comparison.measures}
    above_of = {table.name: superiors(table, comparison) for table in comparison.measures}
    rows = [["", "Run", *(_tex(label(table.name)) for table in tables)]]
    for number, run in enumerate(comparison.runs):
        cells = [letter(number), _tex(run.name) + (" (simulated)" if run.simulated else "")]
        for table in comparison.measures:
            shown = rounded[table.name][run.name]
            best = table.tested and shown == max(rounded[table.name].values(), key=float)
            above = "".join(above_of[table.name][run.name])
            cells.append((rf"\textbf{{{shown}}}" if best else shown) + (f"$^{{{above}}}$" if above else ""))
        rows.append([*cells, *(_cost(table.name, table.means[run.name]) for table in comparison.costs)])
    words = _tex(caption(comparison)).replace("alpha", r"$\alpha$")
    costs = " Costs are means of a query." if comparison.costs else ""
    return _booktabs(f"ll{'r' * len(tables)}", rows, f"{words}. Superscripts: significantly above these runs.{costs}")


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], words: str) -> str:
    """Return a booktabs table of these cells."""
    return _booktabs("l" * len(header), [list(map(_tex, cells)) for cells in (header, *rows)], _tex(words))


def _booktabs(columns: str, rows: Sequence[Sequence[str]], words: str) -> str:
    header, *lines = (" & ".join(cells) + r" \\" for cells in rows)
    start = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule"]
    end = [r"\bottomrule", r"\end{tabular}", *([rf"\caption{{{words}}}"] if words else []), r"\end{table}"]
    return "\n".join([*start, *lines, *end])


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def as_csv(comparison: Comparison, *, per_query: bool) -> str:
    """Return a line a run and measure or cost; with `per_query`, one a query too."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["run", "simulated", "query", "name", "value", "ci_low", "ci_high"])
    for table in (*comparison.measures, *comparison.costs):
        for run in comparison.runs:
            span = table.intervals[run.name]
            writer.writerow([run.name, run.simulated, "all", table.name, table.means[run.name], span.low, span.high])
            values = {**run.costs, **run.measures}[table.name]
            for query in comparison.queries if per_query else ():
                writer.writerow([run.name, run.simulated, query, table.name, values.get(query, 0.0), "", ""])
    return stream.getvalue()


def as_json(comparison: Comparison, *, per_query: bool) -> dict[str, Any]:
    """Return the comparison as JSON: a key a measure or cost, then queries, notes, and which runs were simulated."""
    content: dict[str, Any] = {}
    for table in (*comparison.measures, *comparison.costs):
        content[table.name] = {
            "runs": {
                run.name: {"mean": table.means[run.name], "ci": _span(table.intervals[run.name])}
                | ({"per_query": {**run.costs, **run.measures}[table.name]} if per_query else {})
                for run in comparison.runs
            },
            "pairs": [_pair(pair, comparison, len(table.pairs)) for pair in table.pairs],
        }
    if len(comparison.runs) == 2 and all(run.config for run in comparison.runs):
        content["config_differences"] = {key: values for key, *values in config_differences(*comparison.runs)}
    judged = {table.name: dict(table.means) for table in comparison.measures if not table.tested}
    return content | {
        "queries": len(comparison.queries),
        "missing": _missing(comparison),
        "judged": judged,
        "simulated": list(comparison.simulated),
        "notes": list(comparison.notes),
    }


def _missing(comparison: Comparison) -> dict[str, list[str]]:
    judged = {run.name: next(iter(run.measures.values()), {}) for run in comparison.runs}
    lacking = {name: [q for q in comparison.queries if q not in values] for name, values in judged.items()}
    return {name: queries for name, queries in lacking.items() if queries}


def _pair(pair: Pair, comparison: Comparison, family: int) -> dict[str, Any]:
    plain = {
        name: value
        for name, value in vars(pair).items()
        if name not in ("by_query", "equivalent_p", "equivalent_within")
    }
    return plain | {
        "ci": _span(pair.ci),
        "test": comparison.options.test,
        "correction": "none" if comparison.options.test == "tukey" else comparison.options.correction,
        "family": family,
        "wins": list(pair.wins),
        "losses": list(pair.losses),
        "equivalence": {
            "p": pair.equivalent_p,
            "within": comparison.options.margin,
            "smallest_within": pair.equivalent_within,
        },
        **vars(comparison.likeness[pair.a, pair.b]),
    }


def _span(interval: Any) -> list[float]:
    return [interval.low, interval.high]


def label(name: str) -> str:
    """Return a cost's name as tables show it."""
    return LABELS.get(name, name)


def _cost(name: str, value: float) -> str:
    forms: Mapping[str, str] = {"seconds": "{:.3f}", "flops": "{:.3e}", "usd": "{:.6f}"}
    return forms.get(name, "{:,.1f}").format(value)


def _number(value: float) -> str:
    return f"{value:+.4f}"
