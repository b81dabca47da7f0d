"""Energy: what a tracker reads, what it cannot, and that nothing of it stops a run."""

import os
from pathlib import Path

import pytest
from r2llm.pipeline.run import costs, energy
from r2llm.pipeline.run.manifest import Execution, joules

TRACKER = """
import contextlib, enum, types
Measure = enum.IntEnum("Measure", "CPU_ENERGY_SYSTEM_JOULES RAM_ENERGY_SYSTEM_JOULES GPU_ENERGY_SYSTEM_JOULES")
@contextlib.contextmanager
def tracking(measures):
    print("a log's line")
    yield {{measure: types.SimpleNamespace(value=value) for measure, value in zip(measures, {values})}}
"""


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a tracker that reads these values, here and for programs that are started."""

    def install(code: str) -> None:
        (tmp_path / "tirex_tracker.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    return install


def tracked() -> dict[str, float | None]:
    with energy.tracking() as joules:
        assert joules == {}
    return joules


def test_joules_are_the_trackers_and_a_counter_that_is_null_or_stands_still_is_none(tracker) -> None:
    tracker(TRACKER.format(values=[b"120", b"null", b"0"]))
    assert tracked() == {"cpu": 120.0, "ram": None, "gpu": None}


@pytest.mark.parametrize(
    "code", ["raise SystemError", "import os; os.abort()", TRACKER.format(values=[b"nan", b"1", b"1"])]
)
def test_a_tracker_that_fails_measures_nothing(tracker, code: str) -> None:
    tracker(code)
    assert tracked() == {"cpu": None, "ram": None, "gpu": None}


def test_without_a_tracker_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "find_spec", lambda name: None)
    assert tracked() == {}


def test_the_energy_is_that_of_the_executions_that_asked() -> None:
    runs = [
        Execution(status="finished", started="", calls=n, joules={"cpu": j}) for n, j in ((5, 10.0), (0, 1.0), (2, 4.0))
    ]
    assert joules(runs) == {"cpu": 14.0}
    assert joules([Execution(status="interrupted", started="", calls=3), *runs]) == {"cpu": None}
    assert costs.energy({"cpu": 14.0, "gpu": None}, 7) == {
        "cpu_joules": {"mean": 2.0, "p50": None, "p95": None, "total": 14.0, "queries": 7},
        "gpu_joules": {"mean": None, "p50": None, "p95": None, "total": None, "queries": 0},
    }
