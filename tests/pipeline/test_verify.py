"""Verifying a run: a whole one agrees, and any change to any of its files is found and named."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline import verify as verification
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.run import manifest, runfile
from r2llm.pipeline.run.manifest import json_text
from r2llm.pipeline.verify import Check, verify
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.hashing import file_digest
from r2llm.rerankers.ledger import Ledger

Write = Callable[[str, str], Path]


def rerank(heard, *settings: str, name: str = "toy.yaml", output: Path | None = None) -> Path:
    return experiment.rerank(config.load(name, settings), output, heard).run_dir


def states(checks: list[Check]) -> set[str]:
    return {check.state for check in checks}


def differing(run_dir: Path, heard) -> dict[str, str]:
    """What differs, by file: all details of its checks."""
    found: dict[str, str] = {}
    for check in verify(run_dir, heard):
        if check.state == "differs":
            found[check.file] = f"{found.get(check.file, '')} {check.what}: {check.detail}".strip()
    return found


def rewrite_manifest(run_dir: Path, **changes: object) -> None:
    """Change the manifest and seal it anew, as a careful forger would."""
    found = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    (run_dir / "manifest.json").write_text(json_text(manifest.sealed(found | changes)), encoding="utf-8")


def reseal(run_dir: Path, *names: str) -> None:
    """Record the present hashes of files that were changed, so that only what they say can give them away."""
    files = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))["files"]
    rewrite_manifest(run_dir, files=files | {name: file_digest(run_dir / name) for name in names})


# Whole runs


def test_everything_agrees_and_everything_is_checked(toy: Path, heard) -> None:
    checks = verify(rerank(heard), heard)
    assert states(checks) == {"agrees"}
    assert {(check.file, check.what) for check in checks} >= {
        ("manifest.json", "content"),
        ("manifest.json", "fingerprint"),
        ("first_stage.trec", "scores, ranks and tag"),
        ("run.trec", "ranked again from the ledger"),
        ("costs.jsonl", "ranked again from the ledger"),
        ("metrics.json", "measures"),
        ("ledger.sqlite", "integrity"),
        ("ledger.sqlite", "content"),
        ("config.yaml", "fingerprint"),
        ("dataset", "documents and queries"),
        ("dataset", "qrels"),
        ("dataset", "texts of the candidates"),
        ("first_stage.run", "sha256"),
    }


@pytest.mark.parametrize(
    "settings",
    [
        ("first_stage.order=shuffle", "seed=7"),
        ("first_stage.order=inverse", "ranker.method=pointwise.yes_no"),
        ("schedule=latency", "queries={sample: 2, seed: 3}"),
        ("model.answers=oracle", "first_stage.depth=2", "evaluate.measures=[AP, RR@10]"),
        ("queries.ids=[q3]",),
    ],
)
def test_whatever_the_settings(toy: Path, heard, settings: tuple[str, ...]) -> None:
    assert states(verify(rerank(heard, *settings), heard)) == {"agrees"}


def test_bm25_and_a_first_stage_alone(heard, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = config.load("quickstart.yaml", queries=4)
    assert states(verify(experiment.rerank(loaded, tmp_path / "a", heard).run_dir, heard)) == {"agrees"}
    retrieved = experiment.retrieve_only(loaded, tmp_path / "b", heard).run_dir
    assert states(verify(retrieved, heard)) == {"agrees"}
    assert ("metrics.json", "measures") in {(check.file, check.what) for check in verify(retrieved, heard)}


@pytest.mark.parametrize("place", ["deeper/down/run", "run"])
def test_a_run_that_was_moved(toy: Path, heard, place: str) -> None:
    moved = toy / place
    moved.parent.mkdir(parents=True, exist_ok=True)
    written = {path.name: path.read_bytes() for path in shutil.move(rerank(heard), moved).iterdir()}
    assert states(verify(moved, heard)) == {"agrees"}
    again = rerank(heard, name=str(moved / "config.yaml"), output=moved)
    assert all(
        (again / name).read_bytes() == written[name] for name in ("run.trec", "first_stage.trec", "metrics.json")
    )
    assert states(verify(moved, heard)) == {"agrees"}


def test_a_run_of_a_shipped_dataset_names_it(heard, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = experiment.retrieve_only(config.load("quickstart.yaml", queries=2), tmp_path / "a", heard).run_dir
    assert "\ndataset: quickstart\n" in (run_dir / "config.yaml").read_text()


def test_a_run_without_judgements(toy: Path, write: Write, heard) -> None:
    write("bare.yaml", (toy / "toy.yaml").read_text().replace(", qrels: qrels.txt", ""))
    assert states(verify(rerank(heard, name="bare.yaml"), heard)) == {"agrees"}


def test_a_run_that_was_run_again(toy: Path, heard) -> None:
    rerank(heard)
    assert states(verify(rerank(heard), heard)) == {"agrees"}


def test_verifying_changes_nothing(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run_dir.iterdir()}
    verify(run_dir, heard)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run_dir.iterdir()} == before


# A flipped byte


def positions(size: int, steps: int) -> list[int]:
    """Bytes to flip in a file of that size: the first, the last, and some all over."""
    return sorted({*range(0, size, max(1, size // steps)), 1, size - 2, size - 1})


@pytest.mark.parametrize(
    ("mask", "steps"), [(0x20, 6), *(pytest.param(mask, 40, marks=pytest.mark.slow) for mask in (0x20, 0x01, 0x80))]
)
def test_a_flipped_byte_in_any_file_is_found_and_the_file_named(toy: Path, heard, mask: int, steps: int) -> None:
    run_dir = rerank(heard)
    files = sorted(path for path in run_dir.iterdir() if path.name != ".lock")
    assert len(files) == 8
    flipped = 0
    for path in files:
        whole = path.read_bytes()
        for position in positions(len(whole), steps):
            damaged = bytearray(whole)
            damaged[position] ^= mask
            path.write_bytes(damaged)
            assert path.name in differing(run_dir, heard), f"byte {position} of {path.name}"
            flipped += 1
        path.write_bytes(whole)
    assert flipped > 6 * steps
    assert states(verify(run_dir, heard)) == {"agrees"}


def test_white_space_in_the_manifest_counts_too(toy: Path, heard) -> None:
    path = rerank(heard) / "manifest.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(": ", ":\t", 1), encoding="utf-8")
    assert "not as r2llm writes it" in differing(path.parent, heard)["manifest.json"]
    path.write_text(text + "\n", encoding="utf-8")
    assert differing(path.parent, heard).keys() == {"manifest.json"}


def test_a_cut_or_missing_file_is_named(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    for name in ("run.trec", "ledger.sqlite", "metrics.json", "config.yaml", "ir-metadata.yml"):
        whole = (run_dir / name).read_bytes()
        (run_dir / name).write_bytes(whole[:-7])
        assert name in differing(run_dir, heard)
        (run_dir / name).unlink()
        assert "cannot be read: No such file" in differing(run_dir, heard)[name]
        (run_dir / name).write_bytes(whole)


# Changes under a manifest that was made to fit


def test_a_ranking_with_a_document_that_was_no_candidate(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    run, _ = runfile.read(run_dir / "run.trec")
    docs = {query: [doc for doc, _ in found] for query, found in run.items()}
    docs["q1"][0] = "d9"
    runfile.write(run_dir / "run.trec", docs, docs, "toy")
    reseal(run_dir, "run.trec")
    found = differing(run_dir, heard)
    assert "line 1: q1 Q0 d9 1 4 toy is recorded, q1 Q0 " in found["run.trec"]


def test_another_ranking_has_other_measures(toy: Path, heard) -> None:
    run_dir = rerank(heard, "model.answers=oracle")
    run, _ = runfile.read(run_dir / "run.trec")
    docs = {query: [doc for doc, _ in reversed(found)] for query, found in run.items()}
    runfile.write(run_dir / "run.trec", docs, docs, "toy")
    reseal(run_dir, "run.trec")
    found = differing(run_dir, heard)
    assert found.keys() == {"run.trec", "metrics.json"}
    assert "per_query q1 nDCG@10: 1.0 is recorded" in found["metrics.json"]


def test_an_edited_measure_is_seen(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["all"]["nDCG@10"] += 0.001
    (run_dir / "metrics.json").write_text(json_text(metrics))
    reseal(run_dir, "metrics.json")
    assert "all nDCG@10: " in differing(run_dir, heard)["metrics.json"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (" toy\n", " mine\n", "1 4 mine is recorded, q1 Q0"),
        (" 1 4 toy", " 2 4 toy", "2 4 toy is recorded, q1 Q0"),
        (" 2 3 toy", " 2 4 toy", "2 4 toy is recorded, q1 Q0 d1 2 3 toy"),
    ],
)
def test_scores_ranks_and_tag_are_looked_at(toy: Path, heard, old: str, new: str, fault: str) -> None:
    run_dir = rerank(heard)
    text = (run_dir / "run.trec").read_text()
    assert old in text
    (run_dir / "run.trec").write_text(text.replace(old, new, 1))
    reseal(run_dir, "run.trec")
    assert fault in differing(run_dir, heard)["run.trec"]


@pytest.mark.parametrize(
    ("field", "fault"),
    [(name, name) for name in ("asks", "calls", "rounds", "comparisons", "unparsed")] + [("cached", "calls")],
)
def test_costs_are_those_of_ranking_again(toy: Path, heard, field: str, fault: str) -> None:
    run_dir = rerank(heard)
    rows = [json.loads(line) for line in (run_dir / "costs.jsonl").read_text().splitlines()]
    rows[0][field] += 1
    (run_dir / "costs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reseal(run_dir, "costs.jsonl")
    assert f"query q1 {fault}: " in differing(run_dir, heard)["costs.jsonl"]


def test_costs_that_are_none(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    text = (run_dir / "costs.jsonl").read_text()
    (run_dir / "costs.jsonl").write_text(text.replace('"asks": ', '"asks": "x', 1).replace(",", '",', 2))
    assert "costs.jsonl:1: " in differing(run_dir, heard)["costs.jsonl"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("depth: 4", "depth: 3", "depth: 4 is recorded, 3 was found"),
        ("k: 3", "k: 2", "ranker params"),
        ("seed: 0\n", "seed: 1\n", "seed"),
    ],
)
def test_a_config_of_another_experiment(toy: Path, heard, old: str, new: str, fault: str) -> None:
    run_dir = rerank(heard)
    text = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(new.join(text.rsplit(old, 1)))
    reseal(run_dir, "config.yaml")
    assert fault in differing(run_dir, heard)["config.yaml"]


def test_a_manifest_of_another_experiment(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    found = json.loads((run_dir / "manifest.json").read_text())
    rewrite_manifest(run_dir, experiment=found["experiment"] | {"seed": 5})
    assert differing(run_dir, heard).keys() == {"manifest.json", "config.yaml"}


def test_an_answer_added_to_the_ledger(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    with closing(sqlite3.connect(run_dir / "ledger.sqlite")) as ledger:
        ledger.execute("UPDATE replies SET scores = '[0.5, 0.5]' WHERE key = (SELECT min(key) FROM replies)")
        ledger.commit()
    reseal(run_dir, "ledger.sqlite")
    assert "content: content: " in differing(run_dir, heard)["ledger.sqlite"]


def test_a_ledger_laid_out_anew_has_the_same_content(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    with closing(sqlite3.connect(run_dir / "ledger.sqlite")) as ledger:
        ledger.execute("PRAGMA page_size=8192")
        ledger.execute("VACUUM")
    by_check = {(check.file, check.what): check.state for check in verify(run_dir, heard)}
    assert by_check[("ledger.sqlite", "sha256")] == "differs"
    assert by_check[("ledger.sqlite", "content")] == "agrees"


# The world around it


def test_changed_data_are_named_and_nothing_follows_from_them(toy: Path, write: Write, heard) -> None:
    run_dir = rerank(heard)
    write("qrels.txt", (toy / "qrels.txt").read_text().replace("q3 0 d5 1", "q3 0 d5 0"))
    write("docs.jsonl", (toy / "docs.jsonl").read_text().replace("Sea water", "Ocean water"))
    by_check = {(check.file, check.what): check.state for check in verify(run_dir, heard)}
    assert {what for what, state in by_check.items() if state == "differs"} == {
        ("dataset", "documents and queries"),
        ("dataset", "qrels"),
        ("dataset", "texts of the candidates"),
    }
    assert by_check[("metrics.json", "measures")] == "not checked"
    assert by_check[("run.trec", "ranked again from the ledger")] == "not checked"


def test_changed_judgements_are_named_though_another_file_is_gone(toy: Path, write: Write, heard) -> None:
    write("other.trec", (rerank(heard) / "run.trec").read_text())
    run_dir = rerank(heard, "fuse={method: rrf, with: other.trec}")
    (toy / "other.trec").unlink()
    write("qrels.txt", (toy / "qrels.txt").read_text().replace("q3 0 d5 1", "q3 0 d5 0"))
    by_check = {(check.file, check.what): check.state for check in verify(run_dir, heard)}
    assert by_check["dataset", "qrels"] == "differs"
    assert by_check["dataset", "documents and queries"] == "agrees"
    assert by_check["config.yaml", "fingerprint"] == "not checked"


def test_a_document_that_is_gone_is_named(toy: Path, write: Write, heard) -> None:
    run_dir = rerank(heard)
    write("docs.jsonl", (toy / "docs.jsonl").read_text().replace('"d3"', '"d8"'))
    checks = {(check.file, check.what): check for check in verify(run_dir, heard)}
    assert checks["dataset", "texts of the candidates"].detail.endswith("no text of documents d3 was found")
    assert checks["run.trec", "ranked again from the ledger"].state == "not checked"


def test_an_answer_removed_from_the_ledger_is_named(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    with closing(sqlite3.connect(run_dir / "ledger.sqlite")) as ledger:
        ledger.execute("DELETE FROM replies WHERE key = (SELECT min(key) FROM replies)")
        ledger.commit()
    with closing(Ledger(run_dir / "ledger.sqlite", read_only=True)) as ledger:
        told = {"content": ledger.digest(), "answers": len(ledger)}
    rewrite_manifest(run_dir, ledger=told)
    reseal(run_dir, "ledger.sqlite")
    found = differing(run_dir, heard)
    assert found.keys() == {"run.trec", "costs.jsonl", "manifest.json"}
    assert "its answers lead to no ranking: no answer for query q" in found["run.trec"]


def test_a_run_that_was_carried_away_alone_is_checked_by_itself(toy: Path, heard, tmp_path_factory) -> None:
    moved = Path(shutil.move(rerank(heard), tmp_path_factory.mktemp("elsewhere") / "deep" / "run"))
    checks = verify(moved, heard)
    assert states(checks) == {"agrees", "not checked"}
    skipped = {check.file: check.detail for check in checks if check.state == "not checked"}
    again = {"run.trec", "costs.jsonl", "manifest.json", "metrics.json"}
    assert skipped.keys() == {"config.yaml", "dataset", "first_stage.run", *again}
    missing = skipped["dataset"].partition("; looked for ")[0]  # all three are gone, and one is named
    assert missing in {f"dataset: no ../../{name}" for name in ("docs.jsonl", "queries.tsv", "qrels.txt")}
    (moved / "run.trec").write_bytes((moved / "run.trec").read_bytes().replace(b"d1", b"d2", 1))
    assert differing(moved, heard).keys() == {"run.trec"}
    assert ("costs.jsonl", "not checked") in {(check.file, check.state) for check in verify(moved, heard)}


def test_model_files_are_checked_while_they_are_there(toy: Path, tiny_t5: Path, heard) -> None:
    model = toy / "model"
    shutil.copytree(tiny_t5, model)
    run_dir = rerank(heard, "model={backend: transformers, name: model}", "queries.limit=1")
    assert states(verify(run_dir, heard)) == {"agrees"}
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "model.safetensors: " in differing(run_dir, heard)["model"]
    weights.unlink()
    assert "is recorded, no such file was found" in differing(run_dir, heard)["model"]
    shutil.rmtree(model)
    skipped = [check for check in verify(run_dir, heard) if check.state == "not checked"]
    assert [check.file for check in skipped] == ["model"]


def test_recorded_answers_are_checked_too(toy: Path, write: Write, heard) -> None:
    recorded = rerank(heard, output=toy / "a")
    replayed = rerank(heard, "model={backend: replay, answers: a/ledger.sqlite}", output=toy / "b")
    assert states(verify(replayed, heard)) == {"agrees"}
    shutil.rmtree(recorded)
    assert ("model", "recorded answers") in {
        (c.file, c.what) for c in verify(replayed, heard) if c.state == "not checked"
    }
    write("answers.jsonl", '{"query_id": "q1", "text": "Yes"}\n')
    settings = ("ranker={method: pointwise.yes_no, scoring: generation}", "first_stage.depth=1", "queries.limit=1")
    texts = rerank(heard, *settings, "model={backend: replay, answers: answers.jsonl}", output=toy / "c")
    assert states(verify(texts, heard)) == {"agrees"}
    write("answers.jsonl", '{"query_id": "q1", "text": "No"}\n')
    assert differing(texts, heard).keys() == {"model"}


# What cannot be verified


def test_a_folder_that_is_no_run(tmp_path: Path, heard) -> None:
    with pytest.raises(InputError, match=r"no run's folder: there is no manifest\.json"):
        verify(tmp_path, heard)
    with pytest.raises(InputError, match="no run's folder"):
        verify(tmp_path / "nowhere", heard)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"{}\n", b'{"sha256": 1}'])
def test_a_manifest_that_is_none(tmp_path: Path, heard, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    (check,) = verify(tmp_path, heard)
    assert (check.file, check.state) == ("manifest.json", "differs")


def test_a_run_that_is_not_finished(toy: Path, heard) -> None:
    run_dir = rerank(heard)
    rewrite_manifest(run_dir, status="running")
    assert "not finished" in differing(run_dir, heard)["manifest.json"]


def test_only_some_of_many_differences_are_spelt_out() -> None:
    check = verification._check(Path(), "f", "w", dict.fromkeys("abcdefgh", 1), dict)
    assert check.detail.endswith("; e: 1 is recorded, None was found; and 3 more")
