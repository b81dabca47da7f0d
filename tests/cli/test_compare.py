"""`r2llm compare` as it is typed."""

import csv
import io
import re

import pytest
from r2llm.pipeline.io.tables import Table
from r2llm.pipeline.run.sweeps import Outcome, Sweep


@pytest.fixture
def two(r2llm, tmp_path) -> None:
    (tmp_path / "qrels.txt").write_text("q1 0 a 1\nq2 0 a 1\nq3 0 a 1\n")
    (tmp_path / "one.trec").write_text("".join(f"q{i} Q0 b 1 2 x\nq{i} Q0 a 2 1 x\n" for i in (1, 2, 3)))
    (tmp_path / "two.trec").write_text("".join(f"q{i} Q0 a 1 2 y\nq{i} Q0 b 2 1 y\n" for i in (3, 1, 2)))


ARGUMENTS = ("compare", "one.trec", "two.trec", "--qrels", "qrels.txt")


def test_people_read_tables(r2llm, two) -> None:
    done = r2llm(*ARGUMENTS, "--equivalent-within", "0.01", "--per-query")
    assert done.code == 0
    assert "one → two\t+0.3691" in done.out
    assert "two-sided paired t-test, correction Holm" in done.out
    assert "equivalent within 0.01" in done.out


def test_scripts_read_json_and_csv(r2llm, two) -> None:
    pair = r2llm(*ARGUMENTS, "--json", "--test", "permutation").json["nDCG@10"]["pairs"][0]
    assert (pair["a"], pair["b"], pair["wins"], pair["test"], pair["p"]) == (
        "one",
        "two",
        ["q1", "q2", "q3"],
        "permutation",
        0.25,
    )
    rows = list(csv.DictReader(io.StringIO(r2llm(*ARGUMENTS, "--csv", "--per-query").out)))
    assert [row["value"] for row in rows if row["run"] == "two" and row["name"] == "nDCG@10"] == ["1.0"] * 4


def test_papers_take_latex_and_markdown(r2llm, two) -> None:
    assert re.search(r"b & two & \\textbf\{1\.0000\}", r2llm(*ARGUMENTS, "--latex").out)
    assert "| one → two | +0.3691 |" in r2llm(*ARGUMENTS, "--markdown").out


def test_an_original_run_is_held_against(r2llm, two, tmp_path) -> None:
    (tmp_path / "three.trec").write_text((tmp_path / "two.trec").read_text())
    done = r2llm("compare", "three.trec", "--original", "one.trec,two.trec", "--qrels", "qrels.txt", "--json")
    assert {each["run"]: each["effect_ratio"] for each in done.json["reproduction"]} == {"two": 1.0, "three": 1.0}


def test_what_does_not_fit_together_is_refused(r2llm, two, tmp_path) -> None:
    assert "give one of --latex" in r2llm(*ARGUMENTS, "--latex", "--json").err
    assert "no judgements" in r2llm("compare", "one.trec", "two.trec").err
    assert r2llm("compare", "one.trec", "--qrels", "qrels.txt").code == 2
    Sweep(name="s", axes={}, cells=[Outcome(name="c", settings={})]).write(tmp_path)
    assert "no cell of this sweep is done; run its" in r2llm("compare", ".").err


def test_a_run_given_twice_is_compared_once(r2llm, two) -> None:
    done = r2llm(*ARGUMENTS[:3], "./one.trec", *ARGUMENTS[3:], "--original", "one.trec,two.trec", "--json")
    assert [each["run"] for each in done.json["reproduction"]] == ["one", "two"]
    assert "1 of 3 runs are given again" in done.err


def test_latex_typesets_names_of_any_characters() -> None:
    table = Table("x", ["", "Kendall's τ"], [["[a] → b_c", "<0|5>"], ["*x", "1 % & 2"]], ">ab").latex.splitlines()
    assert table[4:8:2] == [r" & Kendall's $\tau$ \\", r"{}[a] $\to$ b\_c & \textless{}0\textbar{}5\textgreater{} \\"]
    assert table[7] == r"{}*x & 1 \% \& 2 \\"
    assert r"\caption{\textgreater{}ab}" in table


def test_every_caption_of_a_test_names_it_and_its_correction(r2llm, two) -> None:
    done = r2llm(*ARGUMENTS, "--correction", "bh", "--original", "one.trec,two.trec")
    assert done.out.count("3 queries; two-sided paired t-test, correction Benjamini-Hochberg, alpha = 0.05") == 2
    assert "Effect ratio: 1 reproduced, 0 no effect" in done.out


def test_a_shipped_dataset_judges_by_its_name(r2llm, tmp_path) -> None:
    for name in ("one.trec", "two.trec"):
        (tmp_path / name).write_text("q01 Q0 a 1 1 x\n")
    done = r2llm("compare", "one.trec", "two.trec", "--dataset", "quickstart", "--json")
    assert done.json["queries"] == 1


def test_runs_without_a_common_measure_are_refused(r2llm) -> None:
    for name, measure in (("a", "nDCG@5"), ("b", "AP")):
        r2llm("rerank", "--config", "quickstart.yaml", "--queries", "2", "--output", name, "--set",
              f"evaluate.measures=[{measure}]")  # fmt: skip
    refused = r2llm("compare", "a", "b")
    assert refused.code == 2
    assert "no measure is common to all runs: they have nDCG@5, Judged@5, AP; name one with --measure" in refused.err
    assert len(r2llm("compare", "a", "b", "--measure", "P@3", "--json").json["P@3"]["runs"]) == 2
