"""Runs whose reranked order is fused with another run: their files, their fingerprint, and that both can be checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline import inspect as inspection
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.run import fusion, runfile
from r2llm.pipeline.run.read import Run
from r2llm.pipeline.verify import verify
from r2llm.rerankers import fusion as formulas
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.types import Ranking

Write = Callable[[str, str], Path]

POINTWISE = "ranker={method: pointwise.yes_no}"
RRF = "fuse={method: rrf}"
HALF = "fuse={method: interpolate, alpha: 0.5}"


def rerank(heard, *settings: str, name: str = "toy.yaml", output: Path | None = None) -> Run:
    return experiment.rerank(config.load(name, settings), output, heard)


def manifest(outcome: Run) -> dict[str, Any]:
    return json.loads((outcome.run_dir / "manifest.json").read_text())


def order(path: Path) -> dict[str, list[str]]:
    return {query: [doc for doc, _ in found] for query, found in runfile.read(path)[0].items()}


def test_the_unfused_order_is_kept_beside_the_fused_one(toy: Path, heard) -> None:
    plain, fused = rerank(heard, POINTWISE), rerank(heard, POINTWISE, RRF)
    assert order(fused.run_dir / "reranked.trec") == order(plain.run_file)
    assert "reranked.trec" in manifest(fused)["files"]
    assert order(fused.run_file) != order(plain.run_file)
    found = json.loads((fused.run_dir / "metrics.json").read_text())
    assert found["reranked"]["all"] == json.loads((plain.run_dir / "metrics.json").read_text())["all"]
    assert fused.metrics.reranked is not None
    assert fused.metrics.reranked.mean == found["reranked"]["all"]
    assert manifest(fused)["ledger"] == manifest(plain)["ledger"]
    assert plain.metrics.reranked is None


@pytest.mark.parametrize("ranker", [POINTWISE, "ranker={method: setwise.heapsort, k: 3}"])
def test_the_order_is_the_formulas(toy: Path, heard, ranker: str) -> None:
    first = runfile.read(rerank(heard, ranker).run_dir / "first_stage.trec")[0]
    for setting, formula in (
        (RRF, lambda ranked, other: formulas.rrf(ranked, other, 60)),
        ("fuse={method: rrf, k: 1}", lambda ranked, other: formulas.rrf(ranked, other, 1)),
        (HALF, lambda ranked, other: formulas.interpolate(ranked, other, 0.5)),
    ):
        outcome = rerank(heard, ranker, setting)
        ranked = runfile.read(outcome.run_dir / "reranked.trec")[0]
        assert order(outcome.run_file) == {query: formula(ranked[query], first[query]) for query in ranked}


def test_scores_are_the_methods_or_else_minus_the_rank(toy: Path, heard) -> None:
    scored = rerank(heard, POINTWISE, HALF).run_dir / "reranked.trec"
    assert all(0 <= score <= 1 for found in runfile.read(scored)[0].values() for _, score in found)
    ranks = rerank(heard, "ranker={method: setwise.heapsort}", HALF).run_dir / "reranked.trec"
    assert [score for _, score in runfile.read(ranks)[0]["q1"]] == [-1.0, -2.0, -3.0, -4.0]


def test_what_was_not_rated_has_the_lowest_score() -> None:
    rankings = {
        "q": Ranking(("a", "b", "c"), (2.0, 1.0, -float("inf"))),
        "r": Ranking(("a", "b"), (-float("inf"),) * 2),
    }
    found = fusion.scored(rankings)
    assert [doc for doc, _ in found["q"]] == ["a", "b", "c"]
    assert [score for _, score in found["q"]] == pytest.approx([2, 1, 1])
    assert found["r"] == [("a", -1.0), ("b", -2.0)]


def test_the_first_stage_takes_part_in_its_own_order(toy: Path, heard) -> None:
    given = rerank(heard, POINTWISE, "model.answers=oracle", "fuse={method: interpolate, alpha: 1}")
    turned = rerank(
        heard, POINTWISE, "model.answers=oracle", "fuse={method: interpolate, alpha: 1}", "first_stage.order=inverse"
    )
    assert order(given.run_file) == order(turned.run_file) == order(given.run_dir / "first_stage.trec")


def test_a_given_run_is_joined_as_far_as_it_is_of_candidates(toy: Path, write: Write, heard) -> None:
    write("other.trec", "q1 Q0 d9 1 9 t\nq1 Q0 d4 2 8 t\nq1 Q0 d2 3 7 t\nq2 Q0 d4 1 1 t\nq7 Q0 d1 1 1 t\n")
    outcome = rerank(heard, POINTWISE, "fuse={method: interpolate, with: other.trec, alpha: 1}")
    assert order(outcome.run_file)["q1"][0] == "d4"
    [note] = [note for note in heard.notes if "other.trec" in note]
    assert "1 documents are no candidates and are ignored; 5 candidates are not in it" in note
    assert {check.state for check in verify(outcome.run_dir, heard)} == {"agrees"}


def test_what_changes_the_fingerprint(toy: Path, write: Write, heard) -> None:
    write("other.trec", (toy / "bm25.trec").read_text())
    write("more.trec", (toy / "bm25.trec").read_text().replace("9.0", "9.5"))
    settings = [
        *(["schedule=throughput"], [RRF], ["fuse={method: rrf, k: 10}"], [HALF]),
        ["fuse={method: interpolate, alpha: 0.4}"],
        ["fuse={method: rrf, with: other.trec}"],
        ["fuse={method: rrf, with: more.trec}"],
    ]
    found = [manifest(rerank(heard, *each))["fingerprint"] for each in settings]
    assert len(set(found)) == len(found)
    noted = config.load("toy.yaml", ["fuse={method: rrf, alpha: 0.5}"])
    assert noted.notes == ("fuse.alpha is not used by rrf",)
    assert manifest(experiment.rerank(noted, None, heard))["fingerprint"] == found[1]


def test_a_fused_run_is_reproduced_from_its_own_config(toy: Path, write: Write, heard, monkeypatch) -> None:
    write("other.trec", (toy / "bm25.trec").read_text())
    first = rerank(heard, POINTWISE, "fuse={method: rrf, with: other.trec}", output=toy / "elsewhere" / "run")
    monkeypatch.chdir("/")
    again = rerank(heard, name=str(first.run_dir / "config.yaml"), output=toy / "again")
    assert again.run_file.read_bytes() == first.run_file.read_bytes()
    assert manifest(again)["fingerprint"] == manifest(first)["fingerprint"]


# Checking


@pytest.mark.parametrize("setting", [RRF, HALF])
@pytest.mark.parametrize("ranker", [POINTWISE, "ranker={method: setwise.heapsort}"])
def test_verify_joins_them_again(toy: Path, heard, setting: str, ranker: str) -> None:
    checks = verify(rerank(heard, ranker, setting).run_dir, heard)
    assert {check.state for check in checks} == {"agrees"}
    again = {check.file for check in checks if check.what == "ranked again from the ledger"}
    assert again == {"run.trec", "reranked.trec", "costs.jsonl"}


def test_another_order_is_found(toy: Path, heard) -> None:
    folder = rerank(heard, POINTWISE, RRF).run_dir
    ranking = {query: docs[::-1] for query, docs in order(folder / "run.trec").items()}
    runfile.write(folder / "run.trec", ranking, ranking, "toy")
    differing = {(check.file, check.what) for check in verify(folder, heard) if check.state == "differs"}
    assert ("run.trec", "ranked again from the ledger") in differing


def test_another_partner_is_found_and_a_lost_one_is_not_checked(toy: Path, write: Write, heard) -> None:
    write("other.trec", (toy / "bm25.trec").read_text())
    folder = rerank(heard, POINTWISE, "fuse={method: rrf, with: other.trec}").run_dir
    write("other.trec", (toy / "bm25.trec").read_text().replace("9.0", "9.5"))
    [differing] = [check for check in verify(folder, heard) if check.state == "differs"]
    assert (differing.file, differing.detail[:15]) == ("config.yaml", "fuse with run: ")
    Path("other.trec").unlink()
    states = {check.file: check.state for check in verify(folder, heard)}
    assert states["run.trec"] == states["config.yaml"] == "not checked"


def test_a_story_tells_the_fused_order(toy: Path, heard) -> None:
    folder = rerank(heard, POINTWISE, RRF).run_dir
    story = inspection.story(folder, "q1")
    assert [move["doc"] for move in story["moves"]] == order(folder / "run.trec")["q1"]
    assert story["notes"] == []


# Mistakes


@pytest.mark.parametrize(
    ("fuse", "complaint"),
    [
        ("{method: rrf, kk: 3}", r"line 5: unknown key fuse\.kk; did you mean 'k'"),
        ("{method: rrf, wiht: x}", r"line 5: unknown key fuse\.wiht; did you mean 'with'"),
        ("{method: borda}", r"line 5: fuse\.method: should be 'rrf' or 'interpolate', not 'borda'"),
        ("{method: interpolate}", "line 5: fuse: interpolate needs alpha, the weight of the other run"),
        ("{method: interpolate, alpha: 2}", r"line 5: fuse\.alpha: should be less than or equal to 1, not 2"),
        ("{with: first_stage}", r"line 5: fuse\.method is missing"),
        ("{method: rrf, with: no.trec}", r"fuse\.with: no file no\.trec; name a TREC run, or first_stage"),
        ("{method: rrf, with: strange.trec}", r"strange\.trec: none of its 1 queries is reranked"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    toy: Path, write: Write, heard, fuse: str, complaint: str
) -> None:
    write("strange.trec", "q9 Q0 d1 1 1 t\n")
    write("fused.yaml", (toy / "toy.yaml").read_text() + f"fuse: {fuse}\n")
    with pytest.raises(InputError, match=complaint):
        rerank(heard, name="fused.yaml")
    assert not Path("runs").exists()
