"""Comparing runs: what is paired, what is refused, and what is said."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.compare import comparison, runs, tables
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener
from r2llm.rerankers.errors import InputError

Write = Callable[[str, str], Path]

QUERIES = [f"q{i}" for i in range(8)]
BEST = {query: ["a", "b", "c"] for query in QUERIES}
"""Rankings with the relevant document, a, first."""


@pytest.fixture
def trec(write: Write) -> Callable[..., Path]:
    """Write a run file; the one relevant document of each query is a."""
    write("qrels.txt", "".join(f"{query} 0 a 1\n{query} 0 b 0\n" for query in QUERIES))

    def trec(name: str, rankings: dict[str, list[str]]) -> Path:
        rows = [f"{q} Q0 {d} {i} {9 - i} x\n" for q, docs in rankings.items() for i, d in enumerate(docs, 1)]
        return write(name, "".join(rows))

    return trec


def compared(paths: list[Path], listener: Listener | None = None, **options: object) -> comparison.Comparison:
    chosen = comparison.Options(**options)
    loaded = runs.load(paths, runs.Judgements(qrels=Path("qrels.txt")), (), listener or Listener())
    return comparison.compare(loaded, chosen, listener or Listener())


def worse(count: int) -> dict[str, list[str]]:
    """Rankings with the relevant document last in the first so many queries."""
    return {query: ["b", "c", "a"] if i < count else ["a", "b", "c"] for i, query in enumerate(QUERIES)}


def test_queries_are_paired_by_id_whatever_their_order(trec) -> None:
    found = compared([trec("one.trec", worse(3)), trec("two.trec", dict(reversed(worse(3).items())))])
    [pair] = found.measures[0].pairs
    assert (pair.diff, pair.ties, pair.wins, pair.losses, pair.p) == (0.0, 8, (), (), 1.0)
    assert found.likeness["one", "two"] == comparison.Likeness(1.0, pytest.approx(1.0), 1.0)


def test_wins_and_losses_name_their_queries(trec) -> None:
    found = compared([trec("one.trec", worse(3)), trec("two.trec", BEST)])
    [pair] = found.measures[0].pairs
    assert (pair.wins, pair.losses, pair.ties) == (("q0", "q1", "q2"), (), 5)
    assert pair.diff == pytest.approx(3 / 8 * 0.5)
    assert pair.detectable is not None


def test_a_missing_query_counts_0_and_is_named(trec, heard) -> None:
    without = {query: docs for query, docs in BEST.items() if query != "q5"}
    found = compared([trec("one.trec", BEST), trec("two.trec", without)], heard)
    assert found.measures[0].means == {"one": 1.0, "two": 7 / 8}
    assert "two: 1 queries missing, counted as 0: q5" in heard.notes
    assert tables.as_json(found, per_query=False)["missing"] == {"two": ["q5"]}
    assert compared([trec("one.trec", BEST), trec("two.trec", without)], common=True).measures[0].means["two"] == 1.0


def test_a_query_without_judgements_is_left_out_and_counted(trec, heard) -> None:
    found = compared([trec("one.trec", {**BEST, "q99": ["a"]}), trec("two.trec", BEST)], heard)
    assert len(found.queries) == len(QUERIES)
    assert any(note.endswith("1 of 9 queries have no judgements and are left out") for note in heard.notes)


def test_judged_is_shown_and_neither_tested_nor_lettered(trec, heard) -> None:
    found = compared([trec("one.trec", BEST), trec("two.trec", {query: ["x", "y", "z"] for query in QUERIES})], heard)
    judged = found.measures[1]
    assert (judged.name, judged.pairs) == ("Judged@10", ())
    assert any(note.startswith("Judged@10 is 0.0000 for two") for note in heard.notes)
    assert r"\textbf{0" not in tables.means(found).latex


def test_one_query_alone_is_compared_without_a_p_value(trec) -> None:
    found = compared([trec("one.trec", {"q0": ["a"]}), trec("two.trec", {"q0": ["b", "a"]})])
    row = tables.pairs(found, found.measures[0]).rows[0]
    assert row[2:6] == ["-"] * 4
    assert row[-1] == "not tested: one query"
    assert tables.as_json(found, per_query=True)["nDCG@10"]["runs"]["one"]["per_query"] == {"q0": 1.0}


def test_letters_go_on_after_z() -> None:
    assert [tables.letter(n) for n in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        "a",
        "z",
        "aa",
        "ab",
        "az",
        "ba",
        "zz",
        "aaa",
    ]


def test_thirty_runs_have_a_letter_each(trec) -> None:
    paths = [trec(f"r{i:02}.trec", worse(i % 9)) for i in range(30)]
    found = compared(paths, baseline="r00")
    table = tables.means(found)
    assert [row[0] for row in table.rows][-4:] == ["aa", "ab", "ac", "ad"]
    assert len(found.measures[0].pairs) == 29
    assert len(table.header) == 4


def test_letters_of_more_than_26_runs_are_told_apart_by_commas(trec) -> None:
    paths = [trec(f"r{i:02}.trec", BEST if i in (0, 27) else worse(8)) for i in range(28)]
    found = compared(paths)
    above = ",".join(map(tables.letter, range(1, 27)))
    assert tables.means(found).rows[0][2].startswith(f"1.0000 >{above} [")
    assert ">a,b: significantly above runs a and b" in tables.means(found).caption
    assert f"$^{{{above}}}$" in tables.means(found).latex


def test_equal_runs_are_equivalent_within_0_and_no_p_value_is_0(trec) -> None:
    found = compared([trec("one.trec", BEST), trec("two.trec", BEST), trec("bad.trec", worse(8))], margin=0.1)
    equal, constant, _ = tables.pairs(found, found.measures[0]).rows
    assert equal[-2:] == ["not significant; equivalent within 0.0000", "yes, p < 1e-300"]
    assert constant[3] == "< 1e-300"


def test_notes_about_many_runs_are_one_of_each_kind(trec, heard) -> None:
    one = trec("one.trec", {**BEST, "q97": ["a"]})
    lacking = [trec(f"r{i}.trec", {f"q{n}": BEST["q0"] for n in range(8) if n != i} | {"q98": ["a"]}) for i in range(8)]
    compared([one, *lacking], heard)
    assert [note.partition("; likewise, ")[::2] for note in heard.notes[:2]] == [
        (
            f"{one}: 1 of 9 queries have no judgements and are left out",
            f"8 more: {', '.join(map(str, lacking[:6]))} and 2 more",
        ),
        ("r0: 1 queries missing, counted as 0: q0", "7 more: r1, r2, r3, r4, r5, r6 and 1 more"),
    ]


def test_a_baseline_is_named_by_any_form_of_its_path(trec) -> None:
    one, two = trec("one.trec", BEST), trec("two.trec", worse(3))
    for name in ("two", "two.trec", "./two.trec", str(two.resolve())):
        assert compared([one, two], baseline=name).runs[0].name == "two"
    for folder in ("a", "b"):
        Path(folder).mkdir()
    with pytest.raises(InputError, match=r"--baseline two\.trec: several of the runs; they are two\.trec 1, two"):
        compared([trec("a/two.trec", BEST), trec("b/two.trec", BEST)], baseline="two.trec")


def test_ties_after_rounding_are_all_bold(trec) -> None:
    found = compared([trec("one.trec", BEST), trec("two.trec", BEST), trec("three_x.trec", worse(8))])
    latex = tables.means(found).latex
    assert latex.count(r"\textbf{1.0000}") == 2
    assert "three\\_x" in latex
    assert "paired t-test, correction Holm" in latex


def test_holm_goes_by_the_pairs_of_one_measure(trec) -> None:
    found = compared([trec("one.trec", worse(2)), trec("two.trec", worse(5)), trec("three.trec", BEST)])
    smallest = min(found.measures[0].pairs, key=lambda pair: pair.p)
    assert smallest.p_adjusted == pytest.approx(min(1.0, 3 * smallest.p))
    assert tables.as_json(found, per_query=False)["nDCG@10"]["pairs"][0]["family"] == 3


def test_what_cannot_be_compared_is_refused(trec) -> None:
    one, two = trec("one.trec", BEST), trec("two.trec", BEST)
    for paths, options, words in (
        ([one], {}, "two runs or more"),
        ([one, two], {"baseline": "three"}, "they are one, two"),
        ([one, Path("nowhere")], {}, "no file or folder nowhere"),
    ):
        with pytest.raises(InputError, match=words):
            compared(paths, **options)
    with pytest.raises(InputError, match="a TREC file has no judgements"):
        runs.load([one, two], runs.Judgements(), (), Listener())


def test_run_folders_bring_measures_costs_and_configs(toy: Path, heard) -> None:
    for name, settings in (("one", []), ("two", ["ranker={method: pointwise.yes_no}"])):
        experiment.rerank(config.load("toy.yaml", settings), toy / "runs" / name, Listener())
    loaded = runs.load([toy / "runs"], runs.Judgements(), (), Listener())
    names = [run.name for run in loaded]
    assert names == ["setwise.heapsort k=3", "pointwise.yes_no"]  # both are called toy: what differs tells them apart
    found = comparison.compare(loaded, comparison.Options(), heard)
    assert [table.name for table in found.costs] == ["asks", "calls", "rounds", "seconds"]
    metrics = json.loads((toy / "runs/one/metrics.json").read_text())
    assert found.measures[0].means[names[0]] == pytest.approx(metrics["all"]["nDCG@10"])
    assert found.simulated == tuple(names)
    assert rf"{found.costs[0].means[names[0]]:,.1f} &" in tables.means(found).latex
    assert any(note.startswith("simulated answers") for note in heard.notes)
    assert "SIMULATED" in tables.caption(found)
    changed = {key: (before, after) for key, before, after in comparison.config_differences(*found.runs)}
    assert changed["ranker.method"] == ("setwise.heapsort", "pointwise.yes_no")
    told = tables.as_json(found, per_query=False)["config_differences"]
    assert told["ranker.method"] == ["setwise.heapsort", "pointwise.yes_no"]


def test_answers_of_other_runs_are_said_to_be_no_calls(toy: Path, heard) -> None:
    for name in ("one", "two"):
        experiment.rerank(config.load("toy.yaml", ["shared_ledger=answers"]), toy / "runs" / name, Listener())
    one, two = runs.load([toy / "runs"], runs.Judgements(), (), heard)
    asks = sum(two.costs["asks"].values())
    assert sum(one.costs["calls"].values()) == asks
    assert f"runs/two: {asks} answers were taken from other runs: they are not in `calls`" in heard.notes[0]


def test_a_measure_that_a_run_lacks_is_taken_from_its_dataset(toy: Path) -> None:
    for name in ("one", "two"):
        experiment.rerank(config.load("toy.yaml"), toy / "runs" / name, Listener())
    loaded = runs.load([toy / "runs"], runs.Judgements(), ("P@1",), Listener())
    assert [set(run.measures) for run in loaded] == [{"P@1"}, {"P@1"}]


def test_another_subset_of_queries_is_refused_unless_common(toy: Path) -> None:
    experiment.rerank(config.load("toy.yaml"), toy / "runs/all", Listener())
    experiment.rerank(config.load("toy.yaml", queries=2), toy / "runs/two", Listener())
    loaded = runs.load([toy / "runs"], runs.Judgements(), (), Listener())
    with pytest.raises(InputError, match="is of 2 judged queries, and another run of 3; --common"):
        comparison.compare(loaded, comparison.Options(), Listener())
    assert len(comparison.compare(loaded, comparison.Options(common=True), Listener()).queries) == 2


def test_seeds_are_averaged_before_queries_are_counted(toy: Path) -> None:
    shuffled = ["first_stage.order=shuffle", "ranker={method: setwise.heapsort, k: 3}"]
    for seed in (1, 2, 3):
        experiment.rerank(
            config.load("toy.yaml", [*shuffled, f"first_stage.seed={seed}"]), toy / f"runs/{seed}", Listener()
        )
    experiment.rerank(config.load("toy.yaml"), toy / "runs/given", Listener())
    loaded = runs.load([toy / "runs"], runs.Judgements(), (), Listener())
    grouped = runs.grouped(loaded, "first_stage.seed")
    assert [run.name for run in grouped] == ["shuffle (mean of 3)", "given"]
    singles = [run.measures["nDCG@10"]["q1"] for run in loaded[:3]]
    assert grouped[0].measures["nDCG@10"]["q1"] == pytest.approx(sum(singles) / 3)
    assert len(comparison.compare(grouped, comparison.Options(), Listener()).queries) == 3
    cells = [dataclasses.replace(run, name=f"order-shuffle+seed-1{n}") for n, run in enumerate(loaded[:3])]
    assert [run.name for run in runs.grouped(cells, "first_stage.seed")] == ["order-shuffle+seed (mean of 3)"]
    with pytest.raises(InputError, match="no run's config has this key"):
        runs.grouped(loaded, "first_stage.sed")


def test_a_reproduction_of_the_original_has_ratio_1(trec) -> None:
    loaded = runs.load(
        [trec("again.trec", BEST), trec("base.trec", worse(6)), trec("best.trec", BEST)],
        runs.Judgements(qrels=Path("qrels.txt")),
        (),
        Listener(),
    )
    again, base, best = loaded
    found = comparison.compare([best, again], comparison.Options(), Listener())
    ratios = {each.run: each for each in comparison.reproductions(found, base, best)}
    assert (ratios["again"].rmse, ratios["again"].effect_ratio, ratios["again"].p) == (0.0, 1.0, 1.0)
    assert ratios["again"].queries == len(QUERIES)
