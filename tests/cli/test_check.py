"""`r2llm check`: what it prints, writes and exits with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from r2llm.cli import main
from r2llm.pipeline.compare.baseline import COSTS
from r2llm.pipeline.configs.load import SHIPPED

ROOT = SHIPPED.parent
BASELINE = ROOT / "runs" / "baselines" / "quickstart.json"
QUICKSTART = ("--config", "quickstart.yaml", "--baseline", str(BASELINE))
SORT = Path("rerankers/methods/heaps.py")


@dataclass(frozen=True)
class Said:
    """What came of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., Said]:
    """Type `r2llm check …` in this process. The working folder is a temporary one."""
    monkeypatch.chdir(tmp_path)

    def check(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["r2llm", "check", *map(str, words)])
        try:
            main.main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        return Said(code, said.out, said.err)

    return check


def with_another_sort(folder: Path, line: str, instead: str) -> Path:
    """A copy of the package in `folder`, with one line of the sort changed, as a user would."""
    copy = folder / "r2llm"
    for room in ("cli", "configs", "pipeline", "rerankers"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", copy)
    text = (copy / SORT).read_text()
    assert text.count(line) == 1
    (copy / SORT).write_text(text.replace(line, instead))
    return folder


def test_the_shipped_baseline_holds(check) -> None:
    said = check(*QUICKSTART)
    assert (said.code, said.err) == (0, "")
    assert said.out == f"quickstart: unchanged against {BASELINE} (24 queries)\n"


def test_the_shipped_baseline_is_what_update_writes(check) -> None:
    said = check("--config", "quickstart.yaml", "--baseline", "new/quickstart.json", "--update")
    assert (said.code, said.out) == (0, "quickstart: baseline new/quickstart.json written\n")
    assert Path("new/quickstart.json").read_bytes() == BASELINE.read_bytes()


def test_one_changed_line_of_a_sort_fails_and_names_the_queries(check, tmp_path: Path) -> None:
    changed = with_another_sort(tmp_path, "children, -1, -1)", "children, 0, -1)")
    words = ("-m", "r2llm.cli.main", "check", *QUICKSTART, "--junit", "check.xml")
    environment = {**os.environ, "PYTHONPATH": str(changed)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"quickstart: REGRESSION against {BASELINE} (24 queries)"
    ndcg = json.loads(BASELINE.read_text())["measures"]["nDCG@10"]
    assert lines[2].startswith(f"nDCG@10\t{ndcg:.4f} → ")
    named = [line.split("\t")[0] for line in lines if line.startswith("q")][1:]
    assert lines[-1] == f"{len(named)} of 24 queries moved, tolerance 0"
    # The file knows the first ten of each: whoever reads it finds the same queries.
    before = json.loads(BASELINE.read_text())["queries"]
    after: dict[str, list[str]] = {}
    [run] = (tmp_path / "runs").glob("quickstart-*/run.trec")
    for line in run.read_text().splitlines():
        query, _, doc, *_ = line.split()
        after.setdefault(query, []).append(doc)
    assert set(named) == {query for query in before if before[query]["top"] != after[query][:10]}
    moved = next(line for line in lines if "outside 10 → 1," in line)
    assert after[moved.split("\t")[0]][0] == moved.partition(" outside 10 → 1,")[0].split()[-1]
    cases = ElementTree.parse(tmp_path / "check.xml").getroot().findall("testsuite/testcase")
    assert {case.get("name") for case in cases if case.find("failure") is not None} >= {*named, "nDCG@10"}


def toy(folder: Path) -> None:
    """An experiment with three documents that an oracle ranks."""
    (folder / "docs.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": "text {i}"}}\n' for i in (1, 2, 3)))
    (folder / "queries.tsv").write_text("q1\tone\nq2\ttwo\n")
    (folder / "qrels.txt").write_text("q1 0 d3 2\nq1 0 d2 1\nq2 0 d2 1\n")
    (folder / "bm25.trec").write_text("".join(f"q{q} Q0 d{i} {i} {9 - i} bm25\n" for q in (1, 2) for i in (1, 2, 3)))
    (folder / "toy.yaml").write_text(
        "dataset: {docs: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}\n"
        "first_stage: {run: bm25.trec}\n"
        "ranker: {method: setwise.heapsort}\n"
        "model: {backend: simulated, answers: oracle}\n"
        "expected: {nDCG@10: {value: 0.670, tolerance: 0.01, source: a paper}}\n"
    )


@pytest.fixture
def held(check, tmp_path: Path) -> dict[str, Any]:
    """The toy experiment's baseline, `toy.json`, as it is written."""
    toy(tmp_path)
    assert check("--config", "toy.yaml", "--baseline", "toy.json", "--update").code == 0
    content: dict[str, Any] = json.loads(Path("toy.json").read_text())
    return content


def edit(content: dict[str, Any]) -> None:
    Path("toy.json").write_text(json.dumps(content))


TOY = ("--config", "toy.yaml", "--baseline", "toy.json", "--quiet")


def swap(content: dict[str, Any]) -> None:
    """Pretend that q1 once came out otherwise."""
    content["queries"]["q1"] |= {"top": ["d2", "d3", "d1"], "ranking": "0" * 16}
    content["queries"]["q1"]["measures"]["nDCG@10"] = 0.859717
    content["measures"]["nDCG@10"] = 0.929859
    edit(content)


def test_a_moved_query_reads_so(check, held) -> None:
    swap(held)
    said = check(*TOY)
    assert said.code == 1
    assert said.out.splitlines() == [
        "toy: IMPROVEMENT against toy.json (2 queries)",
        "measure, cost or query\tchange",
        "nDCG@10\t0.9299 → 1.0000 (+0.0701), tolerance 1e-06: q1 +0.1403",
        "q1\td2 1 → 2, d3 2 → 1; nDCG@10 0.8597 → 1.0000",
        "1 of 2 queries moved, tolerance 0",
        "better, and by more than the tolerance: --update makes it the baseline",
    ]


def test_what_is_better_in_one_thing_and_worse_in_another_is_a_regression(check, held) -> None:
    held["costs"]["asks"] -= 1
    held["queries"]["q2"]["costs"]["asks"] -= 1
    swap(held)
    said = check(*TOY)
    asks = held["costs"]["asks"]
    assert (said.code, said.out.splitlines()[0]) == (1, "toy: REGRESSION against toy.json (2 queries)")
    assert f"asks\t{asks} → {asks + 1} (+1; {1 / asks:.1%} moved), tolerance 0.0%: q2 +1" in said.out.splitlines()
    [one] = json.loads(check(*TOY, "--json").out)["checks"]
    assert (one["regression"], one["improvement"]) == (True, False)


def test_what_is_within_tolerance_is_shown_and_passes(check, held) -> None:
    held["tolerances"] |= {"queries": 1, "measures": {"nDCG@10": 0.1}}
    swap(held)
    said = check(*TOY)
    assert said.code == 0
    assert said.out.splitlines()[0] == "toy: within tolerance against toy.json (2 queries)"
    assert "q1\td2 1 → 2, d3 2 → 1; nDCG@10 0.8597 → 1.0000" in said.out.splitlines()


def test_a_small_move_is_shown_with_enough_decimals(check, held) -> None:
    held["measures"]["nDCG@10"] = 0.999996
    edit(held)
    assert "nDCG@10\t0.999996 → 1.000000 (+0.000004), tolerance 1e-06" in check(*TOY).out.splitlines()


def test_costs_and_another_experiment_read_so(check, held) -> None:
    held["costs"]["asks"] += 2
    held["queries"]["q2"]["costs"]["asks"] += 2
    edit(held)
    said = check(*TOY, "--set", "ranker.query_tokens=16", "--set", "evaluate.measures=[nDCG@10, P@1]")
    asks = held["costs"]["asks"]
    assert said.code == 1
    assert said.out.splitlines() == [
        "toy: IMPROVEMENT against toy.json (2 queries)",
        "measure, cost or query\tchange",
        f"asks\t{asks} → {asks - 2} (-2; {2 / asks:.1%} moved), tolerance 0.0%: q2 -2",
        "another experiment than the baseline's: ranker differ",
        "not in the baseline: P@1; --update adds them",
        "better, and by more than the tolerance: --update makes it the baseline",
    ]


def test_json_is_one_object(check, held) -> None:
    swap(held)
    said = check(*TOY, "--json")
    assert said.out.count("\n") == 1
    content = json.loads(said.out)
    assert (said.code, content["exit_code"]) == (1, 1)
    [one] = content["checks"]
    assert (one["name"], one["baseline"], one["regression"], one["differing_parts"]) == ("toy", "toy.json", True, [])
    assert one["measures"]["nDCG@10"]["beyond"] is True
    assert one["moved"][0]["query"] == "q1"
    assert one["moved"][0]["docs"][0] == {"doc": "d2", "before": 1, "after": 2}


def test_a_mistake_is_one_line_and_nothing_is_written(check, tmp_path: Path) -> None:
    toy(tmp_path)
    said = check("--config", "toy.yaml", "--baseline", "toy.json")
    assert (said.code, said.out) == (2, "toy.yaml: not checked\n")
    assert said.err == "error: toy.json: there is no such baseline; --update writes it\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--config", "toy.yaml"),
        ("--config", "toy.yaml", "--expected", "--baseline", "toy.json"),
        ("--config", "toy.yaml", "--expected", "--update"),
        ("--config", "toy.yaml", "--config", "toy.yaml", "--baseline", "toy.json"),
    ],
)
def test_words_that_do_not_go_together(check, tmp_path: Path, words: tuple[str, ...]) -> None:
    toy(tmp_path)
    said = check(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_simulated_answers_are_no_reproduction(check, tmp_path: Path) -> None:
    toy(tmp_path)
    said = check("--config", "toy.yaml", "--expected")
    assert said.code == 2
    assert "simulated answers cannot reproduce a published figure" in said.err


def test_expected_says_within_tolerance_or_out_of_it_by_how_much(check, tmp_path: Path) -> None:
    toy(tmp_path)
    for query, texts in {"q1": ("No", "No", "Yes"), "q2": ("Yes", "No", "No")}.items():
        with Path("answers.jsonl").open("a") as file:
            file.writelines(json.dumps({"query_id": query, "text": text}) + "\n" for text in texts)
    base = (
        Path("toy.yaml")
        .read_text()
        .replace("{backend: simulated, answers: oracle}", "{backend: replay, answers: answers.jsonl}")
    )
    base = base.replace("setwise.heapsort", "pointwise.yes_no, scoring: generation")
    Path("near.yaml").write_text(base.replace("0.670", "0.79"))
    Path("far.yaml").write_text(base)
    near = check("--config", "near.yaml", "--expected")
    # d3 d1 d2 for q1: (2 + 1/2) / (2 + 1/log2 3) = 0.9502; d1 d2 d3 for q2: 1/log2 3 = 0.6309.
    assert near.out == "near: within tolerance: nDCG@10 0.7906, published 0.790 ± 0.010 (a paper)\n"
    assert near.code == 0
    far = check("--config", "near.yaml", "--config", "far.yaml", "--expected", "--junit", "e.xml")
    assert far.code == 1
    assert far.out.splitlines()[0] + "\n" == near.out
    assert (
        far.out.splitlines()[1] == "far: out of tolerance, by 0.1206: nDCG@10 0.7906, published 0.670 ± 0.010 (a paper)"
    )
    suite = ElementTree.parse("e.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")


def test_several_pairs_the_worst_counts_and_none_is_skipped(check, held) -> None:
    Path("broken.json").write_text("{")
    Path("again.json").write_text(Path("toy.json").read_text())
    swap(held)
    words = ["--quiet"]
    for baseline in ("toy.json", "broken.json", "again.json"):
        words += ["--config", "toy.yaml", "--baseline", baseline]
    said = check(*words, "--junit", "ci/check.xml")
    assert said.code == 2
    assert said.err.startswith("error: toy.yaml: broken.json: not a baseline")
    assert said.err.count("\n") == 1
    assert [line for line in said.out.splitlines() if line.startswith("toy")] == [
        "toy: IMPROVEMENT against toy.json (2 queries)",
        "toy.yaml: not checked",
        "toy: unchanged against again.json (2 queries)",
    ]
    suite = ElementTree.parse("ci/check.xml").getroot().find("testsuite")
    assert suite is not None
    cases = [(case.get("classname"), case.get("name"), [part.tag for part in case]) for case in suite]
    assert cases == [
        ("toy", "nDCG@10", ["failure"]),
        ("toy", "Judged@10", ["system-out"]),
        *(("toy", name, ["system-out"]) for name in COSTS),
        ("toy", "q1", ["failure"]),
        ("toy.yaml", "run", ["error"]),
        ("toy", "nDCG@10", ["system-out"]),
        ("toy", "Judged@10", ["system-out"]),
        *(("toy", name, ["system-out"]) for name in COSTS),
    ]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("18", "2", "1")
    assert suite[10][0].text == "1.0000 → 1.0000 (+0.0000), tolerance 1e-06"


def test_junit_is_xml_whatever_the_names_are(check, held) -> None:
    held["queries"]["q1"] |= {"top": ["<&\x01\ud800>", "d3", "d1"], "ranking": "0" * 16}
    Path("toy.json").write_text(json.dumps(held).replace("\\ud800", ""))
    assert check(*TOY, "--junit", "j.xml").code == 1
    failure = ElementTree.parse("j.xml").getroot().find("testsuite/testcase/failure")
    assert failure is not None
    assert "<&?> 1 → gone" in str(failure.text)
