"""Check experiments: run them again and compare the results with a baseline, or with published figures."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...rerankers.errors import BackendError, InputError, R2llmError
from ...rerankers.types import Query
from .. import experiment
from ..configs import grid
from ..configs import load as configs
from ..configs.load import Expected, Loaded
from ..first_stage.retrieve import chosen_queries, open_dataset
from ..io.progress import Listener
from ..io.tables import some
from ..run import index
from ..run import measures as evaluation
from ..run.measures import EXACT
from ..run.read import Run, read
from . import baseline as baselines
from .baseline import Results, Tolerances
from .changes import Changes, change, changes

SIMULATED = "simulated answers cannot reproduce a published figure; name a real model in its `model` section"


@dataclass(frozen=True)
class Plan:
    """Configs to check, each with its baseline, or without any to check published figures; then a grid is its cells.

    `output` is the run's folder; with several configs, the folder that holds one for each, by its name.
    """

    configs: tuple[str, ...]
    baselines: tuple[Path, ...] = ()
    update: bool = False
    settings: tuple[str, ...] = ()
    queries: int | None = None
    output: Path | None = None

    def __post_init__(self) -> None:
        if self.baselines and len(self.baselines) != len(self.configs):
            counts = f"--baseline is given {len(self.baselines)} times and --config {len(self.configs)} times"
            raise InputError(f"{counts}: give each --config its --baseline")
        if self.update and not self.baselines:
            raise InputError("--update writes a baseline: name it with --baseline")


@dataclass(frozen=True)
class Result:
    """The check of one config: what changed in its run from a baseline or published figures, or why it was not checked.

    `published` are the figures, where they are what it was held against. There are no changes if the baseline is new,
    or was of other queries or measures.
    """

    name: str
    run: Run | None = None
    baseline: Path | None = None
    comparison: Changes | None = None
    updated: bool = False
    published: Mapping[str, Expected] = field(default_factory=dict)
    error: R2llmError | None = None

    @property
    def exit_code(self) -> int:
        """Return 1 if anything is beyond its tolerance, unless the baseline was updated, and an error's own code."""
        if self.error:
            return self.error.exit_code
        return int(self.comparison is not None and self.comparison.regression and not self.updated)


def check_each(plan: Plan, listener: Listener) -> Iterator[Result]:
    """Check one config after the other. An error is the result of its config, and the others are checked too.

    Of a grid each cell that has published figures is checked, a finished run in `runs` without running it again.
    """
    for number, name in enumerate(plan.configs):
        try:
            cells = [cell.name for cell in grid.read(name).cells] if not plan.baselines and grid.is_grid(name) else []
        except R2llmError as error:
            yield Result(name, error=error)
            continue
        unpublished = 0
        for one in cells or [name]:
            try:
                loaded, output = configs.load_noting(one, plan.settings, plan.queries, listener), plan.output
                if cells and not loaded.config.expected:
                    unpublished += 1
                    continue
                if output is not None and len(plan.configs) + len(cells) > 1:
                    output /= loaded.config.name
                if plan.baselines:
                    yield _against_baseline(loaded, plan.baselines[number], plan.update, output, listener)
                else:
                    yield _against_published(loaded, output, listener, swept=bool(cells))
            except R2llmError as error:
                yield Result(one, error=error)
        if unpublished:
            listener.note(f"{name}: {unpublished} of {len(cells)} cells have no published figure and are not judged")
        if unpublished and unpublished == len(cells):
            yield Result(name, error=InputError(f"config {name}: none of its {len(cells)} cells has `expected`"))


def _against_baseline(loaded: Loaded, path: Path, update: bool, output: Path | None, listener: Listener) -> Result:
    """Run an experiment and compare it with its baseline, or write that anew with the same tolerances."""
    if not path.exists() and not update:
        raise InputError(f"{path}: there is no such baseline; --update writes it")
    if path.is_dir():
        if update:
            raise InputError(f"{path}: is a run's folder; --update writes a JSON file: name one with --baseline")
        output = output or path.with_name(f"{path.name}-check")  # the baseline's own folder stays as it is
        if output.resolve() == path.resolve():
            raise InputError(f"--output {output}: is the baseline's folder; name another one")
    queries = chosen_queries(open_dataset(loaded).queries(), loaded.config.queries)  # also without candidates
    before = baselines.read(path, queries) if path.exists() else None
    obstacle = _obstacle(before, queries, _measures(loaded)) if before else ""
    if obstacle and not update:  # before anything is spent on the run
        raise InputError(f"{path}: {obstacle}, or write it anew with --update")
    run = _rank_again(loaded, output, listener)
    after = baselines.of_run(run.run_dir, queries)
    if update:
        baselines.write(path, after, before.tolerances if before else Tolerances())
    moved = changes(before, after) if before and not obstacle else None
    return Result(loaded.config.name, run, path, moved, update)


def _obstacle(before: Results, queries: Mapping[str, Query], measures: set[str]) -> str:
    """Return why an experiment of these queries and measures cannot be compared with a baseline, with a remedy."""
    known = before.queries
    gone, new = [query for query in known if query not in queries], [query for query in queries if query not in known]
    if gone or new:
        difference = " and ".join([f"without {some(gone)}"] * bool(gone) + [f"with {some(new)}"] * bool(new))
        counts = f"has {len(known)} queries, and this experiment has {len(queries)}"
        return f"{counts}, {difference}; run the baseline's queries"
    lost = [name for name in before.measures if name not in measures]
    return f"holds {some(lost)}, which this experiment does not measure; add it to evaluate.measures" if lost else ""


def _rank_again(loaded: Loaded, output: Path | None, listener: Listener) -> Run:
    """Rank, also if the run is finished, and note that answers of its ledger would hide a change of the model."""
    run = experiment.rerank(loaded, output, listener, again=True)
    if run.refusal:
        raise BackendError(run.refusal)
    last = run.manifest.executions[-1]
    if last.answers_before and (last.calls or 0) < (run.costs["calls"]["total"] or 0):
        listener.note(
            f"answers are taken from the {last.answers_before:,} that earlier executions left in {run.run_dir}: the "
            "ranking is checked, the model is not; remove that folder or give another --output to have it answer again"
        )
    return run


def _against_published(loaded: Loaded, output: Path | None, listener: Listener, *, swept: bool) -> Result:
    """Compare an experiment's full run with its published figures; a finished one of a sweep is not run again."""
    figures = _published(loaded)
    run = (_finished(loaded, figures.keys(), output, listener) if swept else None) or _rank_again(
        loaded, output, listener
    )
    if run.manifest.simulated:
        raise InputError(f"config {loaded.config.name}: {SIMULATED}")
    means = run.metrics.mean if run.metrics else {}
    # Within tolerance but for rounding, as `Expected.allows` has it.
    moved = Changes(
        tuple(
            change(name, figure.value, means.get(name), figure.tolerance + EXACT, {})
            for name, figure in figures.items()
        )
    )
    return Result(loaded.config.name, run, comparison=moved, published=figures)


def _finished(loaded: Loaded, measures: Iterable[str], output: Path | None, listener: Listener) -> Run | None:
    """Return a finished run of the experiment that has these measures, or None."""
    place = output.parent if output else Path("runs")
    finished = (read(folder) for folder, _ in index.of_fingerprint(place, experiment.fingerprint(loaded), listener))
    measured = (run for run in finished if run.metrics and run.metrics.mean.keys() >= set(measures))
    return next((run for run in measured if not run.refusal), None)


def _published(loaded: Loaded) -> dict[str, Expected]:
    """Return each measure's published figure. Raises `InputError` if the config is another experiment than theirs."""
    config, fault = loaded.config, ""
    figures = {str(evaluation.parse([name])[0]): expected for name, expected in config.expected.items()}
    if not figures:
        fault = "it has no `expected`: there is no published figure to compare with"
    elif loaded.changes_ranking:
        fault = (
            "--set or --queries changes the experiment that the published figures belong to; leave them out (for a "
            "local copy of data or model, write a config that extends this one)"
        )
    elif config.queries != configs.Queries():
        fault = "`queries` selects some of the queries, and the published figures are of all; leave that section out"
    elif any(options.simulated for options in loaded.models):
        fault = SIMULATED
    elif missing := sorted(figures.keys() - _measures(loaded)):
        remedy = "it takes evaluate.measures that name it, and a dataset with judgements"
        fault = f"expects {some(missing)}, which the experiment does not measure; {remedy}"
    if fault:
        raise InputError(f"config {config.name}: {fault}")
    return figures


def _measures(loaded: Loaded) -> set[str]:
    """Return what the experiment will measure: nothing without judgements."""
    if not open_dataset(loaded).qrels():
        return set()
    return {str(measure) for measure in evaluation.parse(evaluation.with_judged(loaded.config.evaluate.measures))}
