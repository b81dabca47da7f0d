"""Holding runs against baselines and against published figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from r2llm.pipeline.compare import baseline, check
from r2llm.pipeline.compare.changes import DocMove, doc_moves
from r2llm.pipeline.compare.check import Plan, Result
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.methods.setwise import heapsort
from r2llm.rerankers.types import Candidates, Ranking

BASELINE = Path("toy.json")

Check = Callable[..., Result]


@pytest.fixture
def one(toy: Path, heard) -> Check:
    """Check the toy experiment against `toy.json`."""

    def one(*settings: str, config: str = "toy.yaml", queries: int | None = None, **options: object) -> Result:
        plan = Plan((config,), options.pop("baselines", (BASELINE,)), settings=settings, queries=queries, **options)
        [result] = check.check_each(plan, heard)
        return result

    return one


@pytest.fixture
def kept(one: Check) -> Path:
    """The toy experiment's baseline."""
    assert one(update=True).updated
    return BASELINE


def tolerate(path: Path, kind: str, value: object) -> None:
    content = json.loads(path.read_text())
    content["tolerances"][kind] = value
    path.write_text(json.dumps(content))


@pytest.fixture
def upside_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change one line of the sort: the ranked documents come out in the wrong order."""

    def top_then_rest(top: Sequence[str], candidates: Candidates) -> Ranking:
        return Ranking((*reversed(top), *(doc for doc in candidates.ids if doc not in set(top))))

    monkeypatch.setattr(heapsort, "top_then_rest", top_then_rest)


# against a baseline


def test_what_has_not_changed_passes(one: Check, kept: Path) -> None:
    result = one()
    assert result.comparison
    assert (result.exit_code, result.comparison.moved, result.comparison.differing_parts) == (0, (), ())
    assert [change.name for change in result.comparison.measures] == ["nDCG@10", "Judged@10"]
    assert not any(change.moved for change in (*result.comparison.measures, *result.comparison.costs))


ORACLE = "model.answers=oracle"


def test_a_changed_sort_names_queries_and_documents(one: Check, request: pytest.FixtureRequest) -> None:
    one(ORACLE, update=True)
    before = {query: one.top for query, one in baseline.read(BASELINE, {}).queries.items()}
    request.getfixturevalue("upside_down")
    result = one(ORACLE)
    assert result.comparison
    assert result.exit_code == 1
    assert {move.query for move in result.comparison.moved} == {"q1", "q2", "q3"}
    for move in result.comparison.moved:
        first, *_, last = before[move.query][:3]
        assert DocMove(first, 1, min(3, len(before[move.query]))) in move.docs
        assert DocMove(last, min(3, len(before[move.query])), 1) in move.docs
        assert move.reranked
    sizes = [abs(b - a) for move in result.comparison.moved for a, b in [move.measures["nDCG@10"]]]
    assert sizes == sorted(sizes, reverse=True)
    [ndcg, judged] = result.comparison.measures
    assert ndcg.beyond
    assert list(ndcg.by_query) == sorted(ndcg.by_query, key=lambda query: -abs(ndcg.by_query[query]))
    assert not judged.beyond
    assert not any(change.beyond for change in result.comparison.costs)


def test_moves_that_cancel_out_in_the_mean_are_a_regression(one: Check, kept: Path, upside_down: None) -> None:
    result = one()
    assert result.comparison
    ndcg = result.comparison.measures[0]
    assert (ndcg.beyond, ndcg.moved) == (False, False)
    assert ndcg.by_query == {"q2": pytest.approx(-0.36907), "q3": pytest.approx(0.36907)}
    assert result.exit_code == 1


def test_each_tolerance_is_for_its_own(one: Check, request: pytest.FixtureRequest) -> None:
    one(ORACLE, update=True)
    request.getfixturevalue("upside_down")
    tolerate(BASELINE, "measures", {"nDCG@10": 1.0})
    assert one(ORACLE).exit_code == 1
    tolerate(BASELINE, "queries", 2)
    assert one(ORACLE).exit_code == 1
    tolerate(BASELINE, "queries", 3)
    assert one(ORACLE).exit_code == 0
    tolerate(BASELINE, "measures", {})
    assert one(ORACLE).exit_code == 1


def test_costs_move_by_shares_of_their_total(one: Check, kept: Path) -> None:
    content = json.loads(kept.read_text())
    asks = content["costs"]["asks"]
    content["costs"]["asks"] = asks - 1
    content["queries"]["q1"]["costs"]["asks"] -= 1
    kept.write_text(json.dumps(content))
    result = one()
    assert result.comparison
    [change] = [change for change in result.comparison.costs if change.beyond]
    assert (change.name, change.before, change.after, change.by_query) == ("asks", asks - 1, asks, {"q1": 1})
    assert (result.exit_code, result.comparison.moved) == (1, ())
    tolerate(kept, "costs", {"asks": 1 / (asks - 1)})
    assert one().exit_code == 0
    tolerate(kept, "costs", {"asks": 0.9 / (asks - 1)})
    assert one().exit_code == 1


def test_costs_of_queries_do_not_make_up_for_each_other(one: Check, kept: Path) -> None:
    content = json.loads(kept.read_text())
    content["queries"]["q1"]["costs"]["rounds"] -= 3
    content["queries"]["q3"]["costs"]["rounds"] += 3
    kept.write_text(json.dumps(content))
    result = one()
    assert result.comparison
    [change] = [change for change in result.comparison.costs if change.moved]
    assert (change.name, change.before, change.amount) == ("rounds", change.after, 6)
    assert change.by_query == {"q1": 3, "q3": -3}
    assert (change.beyond, result.exit_code) == (True, 1)


def test_where_there_were_none_the_tolerance_is_of_one(one: Check, kept: Path) -> None:
    content = json.loads(kept.read_text())
    content["queries"]["q1"]["costs"]["unparsed"] = 2
    for tolerance, code in ((0, 1), (1.9, 1), (2, 0)):
        content["tolerances"]["costs"]["unparsed"] = tolerance
        kept.write_text(json.dumps(content))
        assert one().exit_code == code


def test_a_count_that_was_not_taken_is_a_change(one: Check, kept: Path) -> None:
    content = json.loads(kept.read_text())
    content["costs"]["prompt_tokens"] = 100
    kept.write_text(json.dumps(content))
    result = one()
    assert result.comparison
    assert [(change.name, change.amount) for change in result.comparison.costs if change.beyond] == [
        ("prompt_tokens", None)
    ]


def test_a_move_below_the_top_is_one(one: Check, kept: Path) -> None:
    content = json.loads(kept.read_text())
    content["queries"]["q2"]["ranking"] = "0" * 16
    kept.write_text(json.dumps(content))
    result = one()
    assert result.comparison
    assert [(move.query, move.docs, move.reranked) for move in result.comparison.moved] == [("q2", (), True)]
    assert result.exit_code == 1


def test_new_judgements_move_queries_whose_ranking_stays(one: Check, kept: Path, write) -> None:
    write("qrels.txt", "q1 0 d3 3\nq1 0 d1 1\nq2 0 d4 2\nq3 0 d4 1\n")
    result = one()
    assert result.comparison
    assert [(move.query, move.reranked) for move in result.comparison.moved] == [("q3", False)]
    assert result.comparison.differing_parts == ()


def test_documents_come_from_outside_the_top_and_leave_it() -> None:
    before = [f"d{i:02d}" for i in range(1, 11)]
    moves = doc_moves(before, ["new", *before[:8], "d10", "below", "d09"])
    assert moves[0] == DocMove("new", None, 1)
    assert DocMove("d09", 9, 12) in moves
    assert DocMove("d01", 1, 2) in moves
    assert "d10" not in {move.doc for move in moves}
    assert "below" not in {move.doc for move in moves}
    assert doc_moves(["d1", "d2"], ["d2"]) == (DocMove("d1", 1, None), DocMove("d2", 2, 1))


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["seed=1"], ("model", "seed")),
        (["ranker.k=2"], ("ranker",)),
        (["ranker.passage_tokens=64"], ("ranker",)),
        (["first_stage.depth=3"], ("first_stage",)),
        (["model.answers=oracle"], ("model",)),
        (["name=other"], ()),
    ],
)
def test_another_experiment_is_compared_and_told(
    one: Check, kept: Path, settings: list[str], parts: tuple[str, ...]
) -> None:
    result = one(*settings)
    assert result.comparison
    assert result.comparison.differing_parts == parts


def test_another_experiment_that_ranks_alike_passes(one: Check, kept: Path) -> None:
    result = one("ranker.passage_tokens=64")
    assert result.comparison
    assert (result.exit_code, result.comparison.differing_parts) == (0, ("ranker",))


def test_another_dataset_is_told(one: Check, kept: Path, write, toy: Path) -> None:
    write("docs.jsonl", (toy / "docs.jsonl").read_text().replace("Bread", "A bread"))
    result = one()
    assert result.comparison
    assert result.comparison.differing_parts == ("dataset",)


def refused(result: Result, *words: str) -> None:
    assert result.error
    assert result.exit_code == 2
    message = str(result.error)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_baseline_names_the_remedy_and_costs_nothing(one: Check) -> None:
    refused(one(), "toy.json", "--update")
    assert not Path("runs").exists()


def test_other_queries_are_refused_before_the_run(one: Check, kept: Path) -> None:
    runs = set(Path("runs").iterdir())
    refused(one(queries=2), "toy.json", "3 queries", "has 2", "without q3", "--update")
    assert one(queries=2, update=True).updated
    runs_of_two = set(Path("runs").iterdir())
    refused(one(), "with q3")
    assert set(Path("runs").iterdir()) == runs_of_two > runs


def test_a_lost_measure_is_refused_and_a_new_one_told(one: Check, kept: Path) -> None:
    refused(one("evaluate.measures=[P@1]"), "nDCG@10, Judged@10", "evaluate.measures", "--update")
    result = one("evaluate.measures=[nDCG@10, P@1]")
    assert result.comparison
    assert (result.exit_code, result.comparison.unmeasured) == (0, ("P@1",))


def test_without_judgements_rankings_are_still_held(one: Check, write, request: pytest.FixtureRequest) -> None:
    text = Path("toy.yaml").read_text().replace(", qrels: qrels.txt", "")
    write("toy.yaml", text)
    assert one(update=True).updated
    assert one().exit_code == 0
    request.getfixturevalue("upside_down")
    result = one()
    assert result.comparison
    assert (result.exit_code, len(result.comparison.moved)) == (1, 3)


def test_a_query_without_candidates_is_part_of_it(one: Check, write) -> None:
    lines = Path("bm25.trec").read_text().splitlines(keepends=True)
    write("bm25.trec", "".join(line for line in lines if not line.startswith("q2")))
    assert one(update=True).updated
    lost = json.loads(BASELINE.read_text())["queries"]["q2"]
    assert (lost["top"], lost["costs"], lost["measures"]["nDCG@10"]) == ([], {}, 0.0)
    assert one().exit_code == 0


def test_update_keeps_tolerances_and_tells_what_it_changed(one: Check, kept: Path, upside_down: None) -> None:
    tolerate(kept, "measures", {"nDCG@10": 0.25})
    tolerate(kept, "queries", 1)
    tolerate(kept, "costs", {"asks": 0.05})
    result = one(update=True)
    assert result.updated
    assert result.exit_code == 0
    assert result.comparison
    assert len(result.comparison.moved) == 3
    tolerances = baseline.read(kept, {}).tolerances
    assert tolerances.measures == {"nDCG@10": 0.25, "Judged@10": 1e-6}
    assert (tolerances.queries, tolerances.costs["asks"], tolerances.costs["rounds"]) == (1, 0.05, 0)
    assert one().exit_code == 0


def test_a_malformed_baseline_is_not_written_over(one: Check, kept: Path) -> None:
    kept.write_text("{")
    refused(one(update=True), "toy.json")
    refused(one(), "toy.json")
    assert kept.read_text() == "{"


def test_answers_of_earlier_executions_are_told_of(one: Check, kept: Path, heard) -> None:
    assert not heard.notes
    one()
    [note] = heard.notes
    asked = json.loads(kept.read_text())["costs"]["asks"]
    assert note.startswith(f"answers are taken from the {asked} that earlier executions left in runs/toy-")
    heard.notes.clear()
    one(output=Path("fresh"))
    assert not heard.notes


def test_a_run_folder_is_a_baseline_that_stays_as_it_is(one: Check, kept: Path, request: pytest.FixtureRequest) -> None:
    [folder] = Path("runs").iterdir()
    ranked = (folder / "run.trec").read_bytes()
    assert one(baselines=(folder,)).exit_code == 0
    request.getfixturevalue("upside_down")
    result = one(baselines=(folder,), output=Path("again"))
    assert result.comparison
    assert (result.exit_code, len(result.comparison.moved)) == (1, 3)
    assert (folder / "run.trec").read_bytes() == ranked
    refused(one(baselines=(folder,), output=folder), "is the baseline's folder")
    refused(one(baselines=(folder,), update=True), "--update writes a JSON file")


def test_a_folder_need_not_name_a_query_without_candidates_and_judgements(one: Check, write, heard) -> None:
    for file in ("bm25.trec", "qrels.txt"):
        lines = Path(file).read_text().splitlines(keepends=True)
        write(file, "".join(line for line in lines if not line.startswith("q2")))
    one(update=True)
    [folder] = Path("runs").iterdir()
    result = one(baselines=(folder,))
    assert result.comparison
    assert (result.exit_code, result.comparison.queries) == (0, 3)
    refused(one(baselines=(folder,), queries=1), "2 queries", "without q3")


# several


def test_every_pair_is_run_and_one_that_fails_stops_none(toy: Path, heard, write) -> None:
    for name, method in (("a", "setwise.heapsort"), ("b", "setwise.bubblesort")):
        write(f"{name}.yaml", f"extends: toy.yaml\nranker: {{method: {method}}}\n")
    files = (Path("a.json"), Path("b.json"))
    written = list(check.check_each(Plan(("a.yaml", "b.yaml"), files, update=True, output=Path("out")), heard))
    assert [result.updated for result in written] == [True, True]
    assert {path.name for path in Path("out").iterdir()} == {"a", "b"}
    plan = Plan(("a.yaml", "none.yaml", "b.yaml", "b.yaml"), (files[0], files[0], Path("no.json"), files[1]))
    results = list(check.check_each(plan, heard))
    assert [result.exit_code for result in results] == [0, 2, 2, 0]
    assert [result.name for result in results] == ["a", "none.yaml", "b.yaml", "b"]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"configs": ("a", "b"), "baselines": (Path("a.json"),)}, "give each --config its --baseline"),
        ({"configs": ("a",), "baselines": (Path("a.json"), Path("b.json"))}, "give each --config its --baseline"),
        ({"configs": ("a",), "update": True}, "name it with --baseline"),
    ],
)
def test_pairs_must_be_pairs(plan: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Plan(**plan)


# against published figures

REPLAYED = """\
extends: toy.yaml
ranker: {method: pointwise.yes_no, scoring: generation}
model: {backend: replay, answers: answers.jsonl}
"""


@pytest.fixture
def published(one: Check, write) -> Callable[..., Result]:
    """Judge a real (replayed) run that comes to nDCG@10 1.0 by an `expected` section."""

    def published(expected: str, more: str = "", *settings: str, **options: object) -> Result:
        # Yes to the one good document of each query: of q1's four, d1 and d3 are; the third is the better.
        said = {"q1": ["No", "No", "Yes", "No"], "q2": ["No", "Yes"], "q3": ["No", "Yes"]}
        lines = [{"query_id": query, "text": text} for query, texts in said.items() for text in texts]
        write("answers.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write("paper.yaml", f"{REPLAYED}expected: {expected}\n{more}\n")
        return one(*settings, config="paper.yaml", baselines=(), **options)

    return published


@pytest.mark.parametrize(
    ("value", "tolerance", "within"), [(1.0, 0, True), (0.99, 0.01, True), (0.95, 0.05, True), (0.95, 0.04, False)]
)
def test_a_figure_is_within_its_tolerance_or_out_of_it(published, value: float, tolerance: float, within: bool) -> None:
    result = published(f"{{nDCG@10: {{value: {value}, tolerance: {tolerance}, source: paper}}}}")
    assert result.comparison
    [change] = result.comparison.measures
    assert (change.before, change.after) == (value, pytest.approx(1.0))
    assert change.amount == pytest.approx(1 - value)
    assert change.beyond is not within
    assert result.exit_code == (0 if within else 1)


def test_one_figure_out_of_several_is_enough_to_fail(published) -> None:
    far = "{nDCG@10: {value: 1, tolerance: 0, source: p}, Judged@10: {value: 0.9, tolerance: 0.01, source: p}}"
    result = published(far)
    assert result.comparison
    assert [change.beyond for change in result.comparison.measures] == [False, True]
    assert result.exit_code == 1


FINE = "{nDCG@10: {value: 1.0, tolerance: 0.01, source: paper}}"


@pytest.mark.parametrize("setting", ["ranker.query_tokens=16", "seed=1", "queries.limit=2"])
def test_changed_settings_are_refused(published, setting: str) -> None:
    refused(published(FINE, "", setting), "paper", "--set or --queries")
    assert not Path("runs").exists()


def test_harmless_settings_are_not(published) -> None:
    assert published(FINE, "", "name=mine", "schedule=latency").exit_code == 0


def test_fewer_queries_are_refused(published) -> None:
    refused(published(FINE, "", queries=2), "paper", "--queries")


@pytest.mark.parametrize("choice", ["limit: 2", "sample: 2", "ids: [q1]"])
def test_a_config_of_some_queries_is_refused(published, choice: str) -> None:
    refused(published(FINE, f"queries: {{{choice}}}"), "paper", "`queries`")
    assert not Path("runs").exists()


def test_a_config_without_a_figure_is_refused(one: Check) -> None:
    refused(one(baselines=()), "toy", "no `expected`")


def test_simulated_answers_are_refused_before_the_run(one: Check, write) -> None:
    write("paper.yaml", f"extends: toy.yaml\nexpected: {FINE}\n")
    refused(one(config="paper.yaml", baselines=()), "paper", "simulated answers cannot reproduce a published figure")
    assert not Path("runs").exists()


def test_recorded_simulated_answers_are_refused_too(one: Check, kept: Path, write) -> None:
    [run] = Path("runs").iterdir()
    write(
        "paper.yaml", f"extends: toy.yaml\nmodel: {{backend: replay, answers: {run}/ledger.sqlite}}\nexpected: {FINE}\n"
    )
    refused(one(config="paper.yaml", baselines=()), "simulated answers cannot reproduce a published figure")


def test_a_figure_that_is_not_measured_is_refused(published) -> None:
    refused(published("{P@1: {value: 1, tolerance: 0, source: p}}"), "P@1", "evaluate.measures")
    refused(published("{nDGC: {value: 1, tolerance: 0, source: p}}"), "nDGC")
    assert not Path("runs").exists()


def test_each_cell_of_a_grid_is_judged_and_a_finished_run_is_not_run_again(published, one: Check, heard) -> None:
    assert published(FINE).exit_code == 0
    Path("grid.yaml").write_text(f"base: paper.yaml\ngrid: {{ranker.query_tokens: [16, 32]}}\nexpected: {FINE}\n")
    plan = Plan(("grid.yaml",))
    first, again = (list(check.check_each(plan, heard)) for _ in range(2))
    assert [result.exit_code for result in first] == [0, 0]
    assert [len(result.run.manifest.executions) for result in again if result.run] == [
        len(result.run.manifest.executions) for result in first if result.run
    ]
