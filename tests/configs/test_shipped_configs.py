"""Every config that ships with the package is one that loads."""

from __future__ import annotations

import pytest
from r2llm.pipeline import config, listing


@pytest.mark.parametrize("name", config.names())
def test_it_loads_without_a_note(name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    loaded = config.load(name)
    assert loaded.notes == ()
    assert loaded.changes_ranking is False
    assert loaded.ranker.method.name
    assert loaded.backend_options


def test_the_list_says_something_about_each() -> None:
    rows = dict(listing.rows("configs"))
    assert sorted(rows) == config.names()
    assert all(about and "\n" not in about for about in rows.values())


def test_published_figures_have_a_source() -> None:
    for name in config.names():
        for figure in config.load(name).config.expected.values():
            assert figure.source


def test_the_quickstart_needs_neither_network_nor_model() -> None:
    quickstart = config.load("quickstart.yaml").config
    assert quickstart.dataset == str((config.SHIPPED / "quickstart").resolve())
    assert quickstart.first_stage.bm25 is not None
    assert quickstart.first_stage.bm25.index == "build"
    assert quickstart.model is not None
    assert quickstart.model["backend"] == "simulated"
