"""Shards: what is written on the command line, which queries are whose, and what a shard's run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline import verify as verification
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.run import read as record
from r2llm.pipeline.run.read import Run
from r2llm.pipeline.run.shards import Shard
from r2llm.rerankers.errors import InputError


def rerank(heard, shard: str | None, *settings: str, output: Path | None = None) -> Run:
    return experiment.rerank(config.load("toy.yaml", settings), output, heard, Shard.parse(shard) if shard else None)


def manifest(run_dir: Path) -> dict[str, object]:
    return json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))


def test_every_query_is_in_one_shard_and_shards_are_of_one_size() -> None:
    queries = {f"q{number}": number for number in range(23)}
    parts = [Shard(number, 5).part(queries) for number in range(1, 6)]
    assert [list(part.values())[:2] for part in parts] == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
    assert sorted(query for part in parts for query in part) == sorted(queries)
    assert {len(part) for part in parts} == {4, 5}


@pytest.mark.parametrize("text", ["3", "0/4", "5/4", "1/0", "-1/4", "1.5/4", "a/b", "", "1/2/3"])
def test_what_means_no_shard_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        Shard.parse(text)


def test_folders_sort_by_number() -> None:
    assert [Shard(number, 16).folder for number in (3, 12)] == ["shard-03-of-16", "shard-12-of-16"]
    assert Shard.parse(" 2/9 ").folder == "shard-2-of-9"


def test_a_shard_has_the_whole_experiments_fingerprint_and_its_own_queries(toy: Path, heard) -> None:
    whole = manifest(rerank(heard, None, output=toy / "whole").run_dir)
    outcome = rerank(heard, "2/2")
    assert outcome.run_dir == Path("runs") / f"toy-{str(whole['fingerprint'])[:8]}" / "shard-2-of-2"
    found = manifest(outcome.run_dir)
    assert (found["fingerprint"], found["shard"]) == (whole["fingerprint"], {"number": 2, "of": 2})
    assert found["data"]["queries"] == whole["data"]["queries"]
    ranked = {line.split()[0] for line in outcome.run_file.read_text(encoding="utf-8").splitlines()}
    assert ranked == {"q2"}
    assert (outcome.queries, str(outcome.manifest.shard), outcome.expected) == (1, "2/2", {})


def test_a_shard_verifies_and_can_be_shown(toy: Path, heard) -> None:
    run_dir = rerank(heard, "1/2", "evaluate.measures=[AP]").run_dir
    assert {check.state for check in verification.verify(run_dir, heard)} == {"agrees"}
    assert record.read(run_dir).manifest.status == "finished"
    alone = verification.verify(run_dir, heard, alone=True)
    assert {check.file for check in alone} & {"dataset", "config.yaml", "metrics.json"} == {
        "config.yaml",
        "metrics.json",
    }
    assert not any(check.what in ("measures", "texts of the candidates", "qrels") for check in alone)


def test_a_shard_is_resumed_and_not_asked_again(toy: Path, heard) -> None:
    first = rerank(heard, "1/2")
    again = rerank(heard, "1/2")
    assert first.costs["calls"]["total"] == first.costs["asks"]["total"]
    assert (again.executed, again.costs) == (False, first.costs)


def test_two_divisions_lie_side_by_side(toy: Path, heard) -> None:
    run_dir = rerank(heard, "1/2").run_dir.parent
    rerank(heard, "1/3")
    assert sorted(path.name for path in run_dir.iterdir()) == ["shard-1-of-2", "shard-1-of-3"]


def test_more_shards_than_queries_leave_empty_ones_that_verify(toy: Path, heard) -> None:
    outcome = rerank(heard, "5/9")
    assert (outcome.queries, outcome.metrics, outcome.costs) == (0, None, {})
    assert {path.name for path in outcome.run_dir.iterdir()} - {".lock"} == {"config.yaml", "manifest.json"}
    assert {check.state for check in verification.verify(outcome.run_dir, heard)} == {"agrees"}
    assert record.read(outcome.run_dir).manifest.status == "finished"


def test_a_shard_without_judgements_is_not_measured(toy: Path, write, heard) -> None:
    write("qrels.txt", "q1 0 d3 3\n")
    assert rerank(heard, "2/3").metrics is None
    assert rerank(heard, "1/3").metrics is not None
    write("qrels.txt", "q9 0 d3 3\n")
    with pytest.raises(InputError, match="none of the queries has relevance judgements"):
        rerank(heard, "2/3", output=toy / "other")


def test_a_run_of_other_queries_is_refused_by_every_shard(toy: Path, write, heard) -> None:
    write("bm25.trec", "x1 Q0 d1 1 9.0 bm25\n")
    with pytest.raises(InputError, match="none of its 1 queries belongs to the experiment"):
        rerank(heard, "1/3")


def test_a_shard_looks_only_at_its_own_part_of_a_given_run(toy: Path, write, heard) -> None:
    """A document that the dataset lacks is another shard's trouble; a line that is no line is everybody's."""
    lines = (toy / "bm25.trec").read_text(encoding="utf-8")
    write("bm25.trec", lines.replace("q2 Q0 d5", "q2 Q0 d99"))
    assert rerank(heard, "1/3").queries == 1
    with pytest.raises(InputError, match="document d99"):
        rerank(heard, "2/3")
    write("bm25.trec", lines + "q2 Q0 d1\n")
    with pytest.raises(InputError, match=r"bm25\.trec:10: 3 columns"):
        rerank(heard, "3/3")


def test_bm25_searches_for_its_own_part_or_takes_it_from_what_was_found_for_all(
    tmp_path: Path, monkeypatch, heard
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("R2LLM_CACHE", str(tmp_path / "cache"))
    loaded = config.load("quickstart.yaml", queries=6)
    experiment.rerank(loaded, tmp_path / "own", heard, Shard(2, 3))
    searches = tmp_path / "cache" / "first_stages"
    assert len(list(searches.glob("*.trec"))) == 1
    experiment.retrieve_only(loaded, tmp_path / "first", heard)
    assert len(list(searches.glob("*.trec"))) == 2
    experiment.rerank(loaded, tmp_path / "all", heard, Shard(2, 3))
    assert len(list(searches.glob("*.trec"))) == 2
    kept = [tmp_path / name / "shard-2-of-3" / "first_stage.trec" for name in ("own", "all")]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_recorded_texts_cannot_be_sharded(toy: Path, write, heard) -> None:
    write("answers.jsonl", '{"query_id": "q1", "text": "A"}\n')
    settings = ("ranker={method: setwise.heapsort, scoring: generation}",)
    with pytest.raises(InputError, match="without --shard"):
        rerank(heard, "1/2", *settings, "model={backend: replay, answers: answers.jsonl}")
