"""Abstention: is a query's ranking good enough to be shown, judged by the scores of its first documents?

Gisserot-Boukhlef et al., "Towards Trustworthy Reranking: A Simple yet Effective Abstention Mechanism", TMLR 2024,
arXiv:2402.12997; as in artefactory/abstention-reranker at b6ad13c. Confidence is a ridge regression of a measure on the
sorted scores, learnt from reference queries, or, without a reference, the maximum, the standard deviation, or the
first score minus the second. Of the queries the least confident are left out, at rates of 0 to 0.9.

`abstain.json`, which --json prints: `run`, `reference`, `measure`, `depth`,
`queries` and `reference_queries` (counts), `few`, `simulated`, `rates`, and `curves`: by name (`oracle`, `random`,
`ridge`, `max`, `sd`, `first_second`) the mean `quality` of the queries kept at each rate, `nauc` (0 random, 1 oracle)
and its `interval` (95 %, bootstrap over queries); null where oracle and random do not differ.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rerankers.errors import InputError
from ..compare import replays
from ..compare import runs as loading
from ..compare.runs import Judgements, Run
from ..compare.sensitivity import method_of
from ..compare.statistics import Values
from ..io.progress import Listener
from ..run import runfile

RATES: Values = np.arange(10) / 10
"""The shares of queries that are left out."""

ALPHA = 0.1
"""The ridge regression's penalty."""

DEPTH = 10

FEW = 200
"""Queries below which a regression's confidence and its curve say little; the authors' sets have hundreds."""

SAMPLES = 1000

Table = NDArray[np.float64]
"""Queries x scores, ascending."""

BASELINES: Mapping[str, Callable[[Table], Values]] = {
    "max": lambda scores: scores[:, -1],
    "sd": lambda scores: scores.std(axis=1),
    "first_second": lambda scores: scores[:, -1] - scores[:, -2],
}
"""Confidences that need no reference."""


def abstain(
    run: Path, reference: Path, judgements: Judgements, measure: str, depth: int, listener: Listener
) -> dict[str, Any]:
    """Return the content of `abstain.json`: how well confidences tell the run's good queries from its bad ones.

    Queries that the reference has too are left out of the run. Raises `InputError` for a run without scores, and where
    fewer than two queries are left in one of both.
    """
    (tested, rows), (learnt, known) = (_scored(path, judgements, measure, depth, listener) for path in (run, reference))
    shared = rows.keys() & known.keys()
    if shared:
        listener.note(f"{len(shared)} queries of {run} are the reference's too and are left out: it has learnt them")
    if any(tested.config.get(key) != learnt.config.get(key) for key in ("ranker", "model")):
        listener.note(f"{reference} is of another ranker or model than {run}: its scores may be on another scale")
    rows = {query: row for query, row in rows.items() if query not in shared}
    for path, count in ((run, len(rows)), (reference, len(known))):
        if count < 2:
            raise InputError(f"{path}: {count} queries are left, and two are the least; give runs of different queries")
    scores, quality = map(np.array, zip(*rows.values(), strict=True))
    reference_scores, reference_quality = map(np.array, zip(*known.values(), strict=True))
    confidences = {"ridge": ridge(reference_scores, reference_quality)(scores)}
    confidences |= {name: confidence(scores) for name, confidence in BASELINES.items()}
    few = min(len(scores), len(reference_scores)) < FEW
    if few:
        listener.note(
            f"{len(scores)} queries and {len(reference_scores)} of the reference are too few to conclude from: "
            f"take {FEW} or more of each; the intervals show how far nAUC is known"
        )
    return {
        "run": tested.name,
        "reference": learnt.name,
        "measure": measure,
        "depth": depth,
        "queries": len(scores),
        "reference_queries": len(reference_scores),
        "few": few,
        "simulated": tested.simulated or learnt.simulated,
        "rates": RATES.tolist(),
        "curves": curves(confidences, quality),
    }


def _scored(
    path: Path, judgements: Judgements, measure: str, depth: int, listener: Listener
) -> tuple[Run, dict[str, tuple[Values, float]]]:
    """Return the run, and each judged query's first scores, ascending, with its measure."""
    [run] = loading.load([path], judgements, [measure], listener)
    quality = run.measures[measure]
    scores = {query: values for query, values in _scores(run).items() if query in quality}
    first = {query: np.sort(np.array(values))[-depth:] for query, values in scores.items() if len(values) >= depth}
    finite = {query: values for query, values in first.items() if np.isfinite(values).all()}
    for count, why in (
        (len(scores) - len(first), f"have fewer than {depth} documents"),
        (len(first) - len(finite), "have a document without a score"),
    ):
        if count:
            listener.note(f"{path}: {count} of {len(scores)} queries {why} and are left out")
    return run, {query: (values, quality[query]) for query, values in finite.items()}


def _scores(run: Run) -> Mapping[str, Sequence[float]]:
    """Return the scores of a run's documents by query: a reranked run's from its ledger, else those of the run file."""
    if run.reranked:
        if (known := replays.scores(run)) is None:
            problem = "gives documents no scores to be confident by; a pointwise method does"
            raise InputError(f"{run.path}: {method_of(run)} {problem}")
        return known
    file = run.path / "first_stage.trec" if run.path.is_dir() else run.path
    scores = {query: [score for _, score in hits] for query, hits in runfile.read(file)[0].items()}
    steps = {tuple(np.round(np.diff(values[:DEPTH]), 9)) for values in scores.values() if len(values) >= DEPTH}
    if len(steps) == 1 < len(scores):
        raise InputError(f"{file}: its scores follow from the rank alone; give a run with the scores of its method")
    return scores


def ridge(scores: Table, quality: Values) -> Callable[[Table], Values]:
    """Return the confidence that a ridge regression of quality on sorted scores learns."""
    from sklearn.linear_model import Ridge

    predict: Callable[[Table], Values] = Ridge(alpha=ALPHA).fit(scores, quality).predict
    return predict


def curves(confidences: Mapping[str, Values], quality: Values) -> dict[str, dict[str, Any]]:
    """Return the curve of each confidence, after those of the oracle and of chance, as in `abstain.json`."""
    best, chance = oracle(quality).tolist(), [float(quality.mean())] * len(RATES)
    rows: dict[str, tuple[Any, float | None, Any]] = {"oracle": (best, 1.0, None), "random": (chance, 0.0, None)}
    samples = np.random.default_rng(0).integers(0, len(quality), (SAMPLES, len(quality)))
    for name, confidence in confidences.items():
        values = [nauc(confidence[sample], quality[sample]) for sample in samples]
        known = [value for value in values if value is not None]
        interval = np.quantile(known, (0.025, 0.975)).tolist() if known else None
        rows[name] = (kept(confidence, quality).tolist(), nauc(confidence, quality), interval)
    return {name: dict(zip(("quality", "nauc", "interval"), row, strict=True)) for name, row in rows.items()}


def oracle(quality: Values) -> Values:
    """Return the mean quality at each rate if the worst queries are left out."""
    ordered = np.sort(quality)
    return np.array([ordered[round(rate * len(ordered)) :].mean() for rate in RATES])


def kept(confidence: Values, quality: Values) -> Values:
    """Return the mean quality of the queries kept at each rate: those at or above the quantile of the confidence."""
    return np.array([quality[confidence >= threshold].mean() for threshold in np.quantile(confidence, RATES)])


def nauc(confidence: Values, quality: Values) -> float | None:
    """Return (AUC - AUC_random) / (AUC_oracle - AUC_random) over the rates; None where all queries are equally good."""
    chance = quality.mean()
    gained, possible = (
        float(np.trapezoid(curve - chance, RATES)) for curve in (kept(confidence, quality), oracle(quality))
    )
    return gained / possible if not math.isclose(possible, 0, abs_tol=1e-12) else None
