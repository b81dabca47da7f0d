"""`r2llm init`: the file it writes is a config, and its comments are the schema's."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.configs.schema import Bm25
from r2llm.rerankers import catalog


def test_off_a_terminal_defaults_are_taken_and_told(r2llm, tmp_path: Path) -> None:
    done = r2llm("init")
    assert (done.code, done.out) == (0, "wrote config.yaml; r2llm rerank --config config.yaml runs it\n")
    assert done.err.splitlines() == [
        "note: --dataset quickstart by default",
        "note: --first-stage build by default",
        "note: --method setwise.heapsort by default",
        "note: --backend simulated by default",
    ]
    text = (tmp_path / "config.yaml").read_text()
    assert "  depth: 100  # candidates a query\n" in text
    assert "  num_child: 2  # documents a prompt shows besides the first" in text
    ran = r2llm("rerank", "--config", "config.yaml", "--queries", "2", "--quiet", "--json")
    assert ran.code == 0
    assert ran.json["metrics"]["nDCG@10"] > 0.5  # type: ignore[index]


def test_options_answer_and_a_known_dataset_has_its_index(r2llm, tmp_path: Path) -> None:
    words = ("--dataset", "msmarco-passage/trec-dl-2019/judged", "--method", "pairwise.allpair", "--model", "x/y")
    done = r2llm("init", "--yes", *words, "-o", "dl19.yaml")
    assert (done.code, "--first-stage msmarco-v1-passage by default" in done.err) == (0, True)
    loaded = config.load(str(tmp_path / "dl19.yaml"))
    assert (loaded.config.name, loaded.notes) == ("dl19", ())
    assert loaded.config.first_stage.bm25 == Bm25(index="msmarco-v1-passage")
    assert loaded.config.model == {"backend": "transformers", "name": "x/y"}


def test_a_run_file_is_a_first_stage(r2llm, toy: Path) -> None:
    assert r2llm("init", "--first-stage", "bm25.trec").code == 0
    assert config.load(str(toy / "config.yaml")).config.first_stage.run == str((toy / "bm25.trec").resolve())


def test_every_method_and_backend_makes_a_config_without_a_note(r2llm, tmp_path: Path) -> None:
    made = [("--method", name) for name in catalog.names("method")] + [
        ("--backend", name) for name in catalog.names("backend")
    ]
    for number, words in enumerate(made):
        done = r2llm("init", "--yes", *words, "-o", f"{number}.yaml")
        assert done.code == 0, done.err
        assert config.load(str(tmp_path / f"{number}.yaml")).notes == ()


def test_on_a_terminal_it_asks(r2llm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = io.StringIO("\nbuild\npointwise.qlm\ntransformers\nmy/model\n")
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = r2llm("init")
    assert done.code == 0, done.err
    loaded = config.load(str(tmp_path / "config.yaml")).config
    assert loaded.ranker == {"method": "pointwise.qlm"}
    assert loaded.model == {"backend": "transformers", "name": "my/model"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "toy.yaml"), "toy.yaml is there already; name another file with --output"),
        (("--method", "setwise.heapsrt"), "unknown method 'setwise.heapsrt'; did you mean 'setwise.heapsort'"),
        (("--backend", "simulatd"), "unknown backend 'simulatd'; did you mean 'simulated'"),
        (("--backend", "simulated", "--model", "x"), "backend simulated takes no model"),
        (("-o", "nowhere/a.yaml"), "nowhere/a.yaml: cannot be written: No such file or directory"),
    ],
)
def test_what_it_refuses_leaves_nothing(r2llm, toy: Path, words: tuple[str, ...], message: str) -> None:
    before = {path: path.read_bytes() for path in toy.iterdir()}
    done = r2llm("init", "--yes", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert {path: path.read_bytes() for path in toy.iterdir()} == before
