"""r2llm: reproducible LLM reranking experiments on TREC and BEIR collections.

From Python, `run` does what `r2llm rerank` does, `load_run` reads a run's folder, `compare` and `report` put runs
side by side. `rerank` ranks candidates in memory, `rerank_frame` a frame of them as PyTerrier passes it, with a model
that a mapping describes or `open_model` has opened. What can go wrong is an `R2llmError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .pipeline.compare.comparison import Comparison
    from .pipeline.compare.statistics import Correction, Test
    from .pipeline.run.read import Run
    from .rerankers.api import Reranked, open_model, rerank, rerank_frame
    from .rerankers.errors import BackendError, InputError, R2llmError

__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "InputError",
    "R2llmError",
    "Reranked",
    "__version__",
    "compare",
    "load_run",
    "open_model",
    "report",
    "rerank",
    "rerank_frame",
    "run",
]

__path__.append(str(Path(__file__).parent / "rerankers" / "frameworks"))  # r2llm.pyterrier


def run(
    config: str | Path,
    settings: Sequence[str] = (),
    *,
    queries: int | None = None,
    output: str | Path | None = None,
    quiet: bool = False,
) -> Run:
    """Retrieve, rerank and evaluate, as `r2llm rerank` does; return the run. Run again, it asks nothing.

    `config` is a file or a shipped one, `settings` are texts as `--set` takes them: `ranker.k=20`.
    """
    from .cli.console import listener
    from .pipeline import experiment
    from .pipeline.configs import load

    loaded = load.load_noting(str(config), settings, queries, listener(quiet))
    return experiment.rerank(loaded, Path(output) if output is not None else None, listener(quiet))


def load_run(run_dir: str | Path) -> Run:
    """Return the run in a folder: its `rankings()`, `query_measures()` and `query_costs()` are frames."""
    from .pipeline.run.read import read

    return read(Path(run_dir))


def compare(
    runs: Iterable[Run | str | Path],
    *,
    baseline: str | None = None,
    measures: Sequence[str] = (),
    test: Test = "t",
    correction: Correction = "holm",
    common: bool = False,
    qrels: str | Path | None = None,
) -> Comparison:
    """Return the comparison that `r2llm compare` prints: its `means` and `pairs` are frames.

    Runs are those of `run`, run folders, sweeps' folders, or TREC files, which need `qrels`.
    """
    from .cli.console import listener
    from .pipeline.compare import comparison
    from .pipeline.compare.runs import Judgements, load

    judgements = Judgements(Path(qrels) if qrels is not None else None)
    loaded = load(_places(runs), judgements, measures, listener(quiet=False))
    return comparison.compare(
        loaded, comparison.Options(test, correction, baseline, common=common), listener(quiet=False)
    )


def report(
    runs: Iterable[Run | str | Path], output: str | Path = "report.html", *, baseline: str | None = None
) -> Path:
    """Write the page that `r2llm report` writes about these runs; return its file."""
    from .cli.console import listener
    from .pipeline.compare.comparison import Options
    from .pipeline.compare.runs import Judgements
    from .pipeline.report import page, sections

    asked = sections.Options(Judgements(), (), Options(baseline=baseline), None)
    groups = sections.groups(_places(runs), asked, listener(quiet=False))
    page.write(groups, "r2llm.report", Path(output))
    return Path(output)


def _places(runs: Iterable[Run | str | Path]) -> list[Path]:
    return [Path(one) if isinstance(one, (str, Path)) else one.run_dir for one in runs]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command line's --help has no use for them.
    if name in __all__:
        from .rerankers import api, errors

        return getattr(errors if name.endswith("Error") else api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
