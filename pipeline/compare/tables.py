"""A comparison as tables, those of LaTeX with letters, as CSV and as JSON; a check in words."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..configs.load import Expected
from ..io import tables
from ..io.tables import FORMS, Table, label, marked, some, tex
from ..run.measures import EXACT
from .baseline import COSTS as COUNTS
from .baseline import TOP
from .changes import Change, QueryMove
from .comparison import ALPHA, Column, Comparison, Pair, Reproduction, config_differences
from .statistics import CONFIDENCE

CORRECTIONS = {"holm": "Holm", "bh": "Benjamini-Hochberg", "none": "none"}
TESTS = {
    "t": "two-sided paired t-test",
    "wilcoxon": "two-sided Wilcoxon signed-rank test",
    "permutation": "two-sided permutation test (100,000 sign flips)",
    "tukey": "two-way Tukey HSD",
}


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


def every(comparison: Comparison, reproduced: Sequence[Reproduction], *, per_query: bool) -> Iterator[Table]:
    """Yield all tables of a comparison; with `per_query`, each query's values too."""
    yield means(comparison)
    tested = [column for column in (*comparison.measures, *comparison.costs) if column.tested]
    yield from (pairs(comparison, column) for column in tested)
    yield likeness(comparison)
    if per_query:
        yield from (queries(comparison, column) for column in comparison.measures)
    names = [run.name for run in comparison.runs]
    if len(names) == 2 and all(run.config for run in comparison.runs):
        differences = config_differences(*comparison.runs)
        rows = [[key, *("-" if value is None else str(value) for value in values)] for key, *values in differences]
        yield Table("what the configs differ in", ["key", *names], rows)
    if reproduced:
        yield reproductions(comparison, reproduced)


def means(comparison: Comparison) -> Table:
    """Return a row a run: its letter, its name, each measure's mean, and mean costs.

    On screens a mean has its interval; in LaTeX the best are bold after rounding, ties all bold, and runs significantly
    below are in superscript.
    """
    columns = (*comparison.measures, *comparison.costs)
    rounded = {each.name: {run: f"{mean:.4f}" for run, mean in each.means.items()} for each in comparison.measures}
    above_of = {column.name: superiors(column, comparison) for column in comparison.measures}
    rows, typeset = [], [["", "Run", *(tex(label(column.name)) for column in columns)]]
    for number, run in enumerate(comparison.runs):
        marked_run = " (simulated)" if run.simulated else ""
        rows.append([letter(number), run.name + marked_run])
        typeset.append([letter(number), tex(run.name) + marked_run])
        for column in comparison.measures:
            mean, above = rounded[column.name][run.name], above_of[column.name][run.name]
            span = column.intervals[run.name]
            rows[-1].append(f"{mean}{f' >{above}' if above else ''} [{span.low:.4f}, {span.high:.4f}]")
            best = column.tested and mean == max(rounded[column.name].values(), key=float)
            typeset[-1].append((rf"\textbf{{{mean}}}" if best else mean) + (f"$^{{{above}}}$" if above else ""))
        costs = [_cost(column.name, column.means[run.name]) for column in comparison.costs]
        rows[-1] += costs
        typeset[-1] += costs
    words = f"{caption(comparison)}; >{_joined(['a', 'b'], comparison)}: significantly above runs a and b"
    words += f"; brackets: 95% bootstrap intervals{'; costs: means of a query' if comparison.costs else ''}."
    below = tex(caption(comparison)).replace("alpha", r"$\alpha$") + ". Superscripts: significantly above these runs."
    below += " Costs are means of a query." if comparison.costs else ""
    latex = tables.booktabs(f"ll{'r' * len(columns)}", typeset, below)
    return Table("results", ["", "run", *(label(column.name) for column in columns)], rows, words, latex)


def _joined(letters: Sequence[str], comparison: Comparison) -> str:
    """Return letters in one word, with commas where `ab` is the letter of a run itself."""
    return ("," if len(comparison.runs) > 26 else "").join(letters)


def superiors(column: Column, comparison: Comparison) -> dict[str, str]:
    """Return for each run the letters of the runs that it is significantly above."""
    letters = {run.name: letter(number) for number, run in enumerate(comparison.runs)}
    below: dict[str, list[str]] = {name: [] for name in letters}
    for pair in column.pairs:
        if pair.significant:
            winner, loser = (pair.b, pair.a) if pair.diff > 0 else (pair.a, pair.b)
            below[winner].append(letters[loser])
    in_order = {name: sorted(each, key=lambda one: (len(one), one)) for name, each in below.items()}
    return {name: _joined(each, comparison) for name, each in in_order.items()}


def pairs(comparison: Comparison, column: Column) -> Table:
    """Return a row a pair of runs: difference, interval, p-values, effect size, wins, ties, losses, and verdict."""
    header = [
        label(column.name),
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
    form = "+.4f" if column in comparison.measures else "+,.4g"

    def number(value: float) -> str:
        return "-" if math.isnan(value) else format(value, form)

    rows = []
    for pair in column.pairs:
        row = [
            f"{pair.a} → {pair.b}",
            number(pair.diff),
            "-" if math.isnan(pair.ci.low) else f"[{number(pair.ci.low)}, {number(pair.ci.high)}]",
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
    words = "differences: the second run's less the first's, with Student's t intervals; wins: the second is above; "
    words += "d_z: the differences' mean over their standard deviation."
    return Table(f"pairs {column.name}", header, rows, f"{caption(comparison)}; {words}")


def _verdict(pair: Pair, number: Callable[[float], str]) -> str:
    if pair.significant:
        return "significant"
    if math.isnan(pair.p):
        return "not tested: one query"
    margin = number(pair.equivalent_within).removeprefix("+")
    least = None if pair.detectable is None else number(pair.detectable).removeprefix("+")
    detectable = f"; these queries show differences from {least}" if least else ""
    return f"not significant{detectable}; equivalent within {margin}"


def likeness(comparison: Comparison) -> Table:
    """Return a row a pair of runs: how alike their rankings are."""
    rows = [
        [f"{a} → {b}", "-" if like.tau is None else f"{like.tau:.3f}", f"{like.rbo:.3f}", f"{like.overlap:.3f}"]
        for (a, b), like in comparison.likeness.items()
    ]
    header = ["runs", "Kendall's τ", "RBO (p 0.9)", "overlap@10"]
    words = "How alike the rankings of two runs are, in the mean over queries: τ over the documents that both have, "
    words += "RBO extrapolated from the depth of the shorter one."
    return Table("likeness", header, rows, marked(words, comparison.simulated))


def queries(comparison: Comparison, column: Column) -> Table:
    """Return a row a query: each run's value and, of two runs, the difference, by which rows are sorted."""
    columns = [run.measures[column.name] for run in comparison.runs]
    values = {query: [each.get(query, 0.0) for each in columns] for query in comparison.queries}
    header = ["query", *(run.name for run in comparison.runs)]
    rows = [[query, *(f"{value:.4f}" for value in row)] for query, row in values.items()]
    if len(columns) == 2:
        header.append("difference")
        rows = [[*row, f"{b - a:+.4f}"] for row, (a, b) in zip(rows, values.values(), strict=True)]
        rows.sort(key=lambda row: float(row[-1]))
    words = marked(f"{column.name} of each query.", comparison.simulated)
    return Table(f"queries {column.name}", header, rows, words)


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


def reproductions(comparison: Comparison, reproduced: Sequence[Reproduction]) -> Table:
    """Return a row a run and measure: how far it reproduces the original effect."""
    rows = []
    for one in reproduced:
        ratios = (one.effect_ratio, one.relative_improvement_change)
        undefined = ["undefined" if ratio is None else f"{ratio:.4f}" for ratio in ratios]
        rows.append([one.run, one.measure, str(one.queries), f"{one.rmse:.4f}", *undefined, p_text(one.p, comparison)])
        rows[-1].append("-" if math.isnan(one.equivalent_within) else f"{one.equivalent_within:.4f}")
    header = ["run", "measure", "queries", "RMSE", "effect ratio", "ΔRI", "p", "equivalent within"]
    words = "Over the queries of both original runs; a run's baseline is the first stage that it reranked, else the "
    words += "original's. Effect ratio: 1 reproduced, 0 no effect, below 0 reversed, undefined where the original has "
    words += "none. ΔRI: 0 reproduced. p: two-sided paired t-test against the original run."
    return Table("reproduction of the original effect", header, rows, marked(words, comparison.simulated))


def p_text(p: float, comparison: Comparison) -> str:
    """Return a p-value; `< …` where a sampled permutation test or a number can say no more, `-` where undefined."""
    if math.isnan(p):
        return "-"
    if comparison.options.test == "permutation" and p <= 2e-5 and len(comparison.queries) > 16:
        return "< 2e-5"
    return f"{p:.4f}" if p >= 0.001 else f"{p:.2e}" if p else "< 1e-300"


def as_csv(comparison: Comparison, *, per_query: bool) -> str:
    """Return a line a run and measure or cost; with `per_query`, one a query too."""
    rows: list[Sequence[object]] = [["run", "simulated", "query", "name", "value", "ci_low", "ci_high"]]
    for column in (*comparison.measures, *comparison.costs):
        for run in comparison.runs:
            start, span = (run.name, run.simulated), column.intervals[run.name]
            rows.append([*start, "all", column.name, column.means[run.name], span.low, span.high])
            values = {**run.costs, **run.measures}[column.name]
            for query in comparison.queries if per_query else ():
                rows.append([*start, query, column.name, values.get(query, 0.0), "", ""])
    return tables.as_csv(rows)


def as_json(comparison: Comparison, *, per_query: bool) -> dict[str, Any]:
    """Return the comparison as JSON: a key a measure or cost, then queries, notes, and which runs were simulated."""
    content: dict[str, Any] = {}
    for column in (*comparison.measures, *comparison.costs):
        content[column.name] = {
            "runs": {
                run.name: {"mean": column.means[run.name], "ci": column.intervals[run.name]}
                | ({"per_query": {**run.costs, **run.measures}[column.name]} if per_query else {})
                for run in comparison.runs
            },
            "pairs": [_pair(pair, comparison, len(column.pairs)) for pair in column.pairs],
        }
    if len(comparison.runs) == 2 and all(run.config for run in comparison.runs):
        content["config_differences"] = {key: values for key, *values in config_differences(*comparison.runs)}
    judged = {column.name: dict(column.means) for column in comparison.measures if not column.tested}
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


def _cost(name: str, value: float) -> str:
    return FORMS.get(name, "{:,.1f}").format(value)
