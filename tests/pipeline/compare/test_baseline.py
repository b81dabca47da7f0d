"""The baseline file: stable, readable, and refused where it is malformed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline.compare import baseline, check
from r2llm.pipeline.io.progress import Listener
from r2llm.rerankers.errors import InputError


@pytest.fixture
def written(toy: Path) -> Path:
    """A baseline of the toy experiment."""
    path = toy / "baselines" / "toy.json"
    plan = check.Plan(("toy.yaml",), (path,), update=True)
    assert [result.exit_code for result in check.check_each(plan, Listener())] == [0]
    return path


def test_it_is_the_same_bytes_wherever_and_however_often_it_is_written(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tmp_path.glob("*.*"):
        (elsewhere / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(elsewhere)
    for _ in range(2):
        plan = check.Plan(("toy.yaml",), (Path("again.json"),), update=True, output=Path("run"))
        assert [result.exit_code for result in check.check_each(plan, Listener())] == [0]
        assert Path("again.json").read_bytes() == content


def test_it_holds_no_path_time_or_version(written: Path, tmp_path: Path) -> None:
    text = written.read_text()
    assert str(tmp_path) not in text
    assert not re.search(r"20\d\d-\d\d|/|\d+\.\d+\.\d+|seconds|calls|cached", text)


def test_it_says_what_each_query_came_to(written: Path) -> None:
    content = json.loads(written.read_text())
    assert content["format"] == 1
    assert list(content["parts"]) == ["dataset", "first_stage", "ranker", "model", "seed"]
    assert list(content["queries"]) == ["q1", "q2", "q3"]
    run = next(Path("runs").glob("toy-*"))
    ranked = [line.split() for line in (run / "run.trec").read_text().splitlines()]
    costs = [json.loads(line) for line in (run / "costs.jsonl").read_text().splitlines()]
    for query, result in content["queries"].items():
        assert result["top"] == [columns[2] for columns in ranked if columns[0] == query]
        assert result["costs"] == {
            name: next(row for row in costs if row["query_id"] == query)[name] for name in baseline.COSTS
        }
    assert content["costs"]["asks"] == sum(row["asks"] for row in costs)
    assert content["costs"]["prompt_tokens"] is None
    assert content["tolerances"]["queries"] == 0
    assert set(content["tolerances"]["measures"].values()) == {1e-6}
    assert set(content["tolerances"]["costs"].values()) == {0}


def test_it_can_be_read_in_a_diff(written: Path) -> None:
    lines = written.read_text().splitlines()
    assert any(line.startswith('      "top": ["') for line in lines)
    assert max(map(len, lines)) <= 200


def test_reading_gives_what_was_written(written: Path, tmp_path: Path) -> None:
    kept = baseline.read(written, {})
    baseline.write(tmp_path / "copy.json", kept, kept.tolerances)
    assert (tmp_path / "copy.json").read_bytes() == written.read_bytes()


def test_of_a_long_ranking_the_first_ten_are_named_and_all_are_hashed(written: Path) -> None:
    queries = baseline.read(written, {}).queries.values()
    assert all(len(one.top) <= baseline.TOP for one in queries)
    assert len({one.ranking for one in queries}) == 3


def edited(content: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    for part in sections:
        content = content[part]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("format", 2, "format"),
        ("fingerprint", None, "fingerprint"),
        ("queries.q1.top", None, "queries.q1.top"),
        ("queries.q1.ranking", 7, "queries.q1.ranking"),
        ("queries", {}, "queries"),
        ("tolerances.measures.nDCG@10", -1, "tolerances.measures.nDCG@10"),
        ("tolerances.measures.nDCG@10", "much", "tolerances.measures.nDCG@10"),
        ("tolerances.measures.nDCG10", 0.1, "tolerances.measures.nDCG10 is not among nDCG@10, Judged@10"),
        ("tolerances.costs.calls", 0.1, "tolerances.costs.calls is not among asks"),
        ("tolerances.queries", 1.5, "tolerances.queries"),
        ("tolerance", 0.1, "tolerance"),
    ],
)
def test_what_is_wrong_in_it_is_named(written: Path, key: str, value: object, named: str) -> None:
    content = json.loads(written.read_text())
    edited(content, key, value)
    written.write_text(json.dumps(content))
    with pytest.raises(InputError) as raised:
        baseline.read(written, {})
    message = str(raised.value)
    assert message.startswith(f"{written}: not a baseline of this r2llm: {named}" if "not among" not in named else "")
    assert named in message
    assert "--update" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b"nDCG 0.7\n"])
def test_what_is_no_baseline_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"b\.json: not a baseline of this r2llm") as raised:
        baseline.read(path, {})
    assert "\n" not in str(raised.value)


def test_a_folder_cannot_be_read_or_written(written: Path, tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        baseline.read(tmp_path, {})
    kept = baseline.read(written, {})
    write("file", "content")
    for path in (tmp_path, tmp_path / "file" / "b.json"):
        with pytest.raises(InputError, match="cannot be written"):
            baseline.write(path, kept, kept.tolerances)
