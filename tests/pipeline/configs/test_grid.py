"""Grids: cells by name, choices, values of keys, exclusions, tables of figures, ad-hoc axes, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline.configs import grid, load
from r2llm.rerankers.errors import InputError

Write = Callable[[str, str], Path]

PAPER = "grids/setwise-paper"
STUDY = """\
name: order-study
base: quickstart.yaml
axes:
  ranker.method: [setwise.heapsort, pairwise.heapsort]
  first_stage: [{order: given}, {order: inverse}, {order: shuffle, seed: [0, 1, 2]}]
exclude: [{ranker.method: pairwise.heapsort, seed: 2}]
"""


def test_the_old_names_of_the_setwise_papers_configs_mean_what_they_meant() -> None:
    cells = grid.read(PAPER).cells
    assert len(cells) == 3 * (9 * 2 + 8 * 8)  # models, times methods and collections of Table 2 and Table 3
    old = {
        "setwise-paper/{dataset}/{model}-{method}.yaml".format_map(cell.settings): cell.load().config for cell in cells
    }
    digest = hashlib.sha256()
    for name in sorted(old):
        digest.update(json.dumps([name, old[name].model_dump(mode="json")], sort_keys=True).encode())
    assert (
        digest.hexdigest() == "1aeadf7d1f5f8630a075d8f5f870c4346fd4df9f3014b6758648c7dcf7509e36"
    )  # of the 246 files that the grid replaced
    for name in sorted(old)[::50]:
        for spelled in (name, name.removesuffix(".yaml"), f"configs/{name}"):
            assert load.load(spelled).config == old[name]


def test_the_prompt_study_has_1248_prompts() -> None:
    cells = grid.read("grids/prompt-study").cells
    assert len(cells) == len({cell.name for cell in cells}) == 1248
    assert cells[-1].load() == load.load(cells[-1].name)


def test_axes_come_in_any_order_and_keys_may_follow() -> None:
    name = f"{PAPER}/method=setwise.heapsort/model=flan-t5-large/dataset=dl19"
    loaded = load.load(name)
    assert (loaded.config.name, loaded.changes_ranking) == ("dl19-flan-t5-large-setwise.heapsort", False)
    changed = load.load(f"{name}/ranker.num_child=4")
    assert changed.config == load.load(name, ["ranker.num_child=4"]).config
    assert changed.changes_ranking  # a published figure is not held against it


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a grid of 246 configs; `r2llm list cells` names them: give dataset one of its values"),
        ("/dataset=dl19/model=flan-t5-xl", "give method one of its values, NAME/method=VALUE"),
        ("/datset=dl19", "has no axis datset; did you mean 'dataset'"),
        ("/dataset=dl91/model=flan-t5-xl/method=setwise.heapsort", "no value 'dl91'; did you mean 'dl19' or 'dl20'"),
        ("/dataset=dl19/dataset=dl20/model=flan-t5-xl/method=setwise.heapsort", "has an axis twice"),
        ("/dataset=beir-scifact/model=flan-t5-xl/method=pairwise.allpair", "excludes this combination"),
    ],
)
def test_a_name_that_is_no_cell(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load.load(PAPER + name)


def test_only_some_cells() -> None:
    some = grid.read(PAPER).only(["dataset=dl19,dl20", "method=setwise.*"])
    assert (len(some.cells), some.axes["method"]) == (2 * 3 * 2, ["setwise.heapsort", "setwise.bubblesort"])
    for choice, message in (
        ("dataset=dl91", "no value 'dl91'; did you mean 'dl19'"),
        ("datset=dl19", "no axis is datset; did you mean 'dataset'"),
    ):
        with pytest.raises(InputError, match=message):
            some.only([choice])
    with pytest.raises(InputError, match="no cell with all of these values"):
        grid.read(PAPER).only(["dataset=beir-*", "method=pairwise.allpair"])


def test_values_of_keys_and_a_base(write: Write) -> None:
    path = str(write("study.yaml", STUDY))
    study = grid.read(path)
    assert (study.name, len(study.cells)) == ("order-study", 2 * 5 - 1)
    assert study.axes["first_stage"][-1] == "order:shuffle+seed:2"
    cell = study.cells[-1]
    assert cell.name == f"{path}/ranker.method=pairwise.heapsort/first_stage=order:shuffle+seed:1"
    config = cell.load().config
    assert config == load.load(cell.name).config
    assert config.name == "order-study-method-pairwise.heapsort-order-shuffle+seed-1"
    assert (config.first_stage.order, config.first_stage.seed, config.first_stage.bm25 is None) == ("shuffle", 1, False)
    assert grid.is_grid(path)
    assert not grid.is_grid("quickstart.yaml")
    with pytest.raises(InputError, match=r"quickstart\.yaml is no grid"):
        grid.read("quickstart.yaml")


def test_a_grids_name_may_hold_what_a_runs_cannot(write: Write) -> None:
    [one] = grid.read(str(write("a.yaml", "name: my grid, 2nd\nbase: quickstart.yaml\ngrid: {seed: [1]}"))).cells
    assert one.load().config.name == "my-grid-2nd-seed-1"


def test_several_bases_and_named_parts(write: Write) -> None:
    text = """\
        base: [quickstart.yaml, fusion-quickstart.yaml]
        seed: 3
        grid:
          dataset: {small: {candidates: c.json}, dl: dl19}
          "ranker.prompt": [setwise, study_setwise/tone=please]
          kind: {quick: {ranker: {k: 1}}, own: own.yaml}
        """
    write("own.yaml", "ranker: {k: 4}")
    mine = grid.read(str(write("mine.yaml", text)))
    assert {axis: len(values) for axis, values in mine.axes.items()} == {
        "base": 2,
        "dataset": 2,
        "ranker.prompt": 2,
        "kind": 2,
    }
    last = mine.cells[-1]
    assert last.name.endswith(
        "/base=fusion-quickstart.yaml/dataset=dl/ranker.prompt=study_setwise%2Ftone=please/kind=own"
    )
    config = load.load(last.name).config
    assert config.ranker is not None
    assert (config.seed, config.dataset, config.ranker["k"]) == (3, "msmarco-passage/trec-dl-2019/judged", 4)
    assert config.fuse is not None


def test_figures_of_a_base_do_not_belong_to_other_settings(write: Write) -> None:
    figure = "expected: {nDCG@10: {value: 0.5, tolerance: 0, source: x}}"
    write("base.yaml", f"extends: quickstart.yaml\n{figure}")
    varied = grid.read(str(write("a.yaml", "base: base.yaml\ngrid: {ranker.k: [1, 2]}")))
    assert varied.cells[0].load().changes_ranking
    stated = grid.read(str(write("b.yaml", f"base: quickstart.yaml\n{figure}\ngrid: {{ranker.k: [1, 2]}}")))
    assert not stated.cells[0].load().changes_ranking


def test_ad_hoc_axes_make_configs_by_name() -> None:
    some = grid.ad_hoc(
        ["quickstart.yaml", "fusion-quickstart.yaml"],
        [
            "ranker.num_child=2,4",
            "first_stage={order: given},{order: shuffle, seed: [0, 1]}",
            "queries.ids=[[031_1, q2]]",
        ],
    )
    assert len(some.cells) == 2 * 2 * 3
    assert some.cells[2].name.startswith(
        "quickstart.yaml/ranker.num_child=2/first_stage.order=shuffle/first_stage.seed=1/"
    )
    for cell in some.cells:
        assert cell.load() == load.load(cell.name)
        assert cell.load().config.queries.ids == ("031_1", "q2")
    assert len(some.only(["config=fusion*", "seed=0"]).cells) == 2
    assert len(grid.ad_hoc([PAPER], ["seed=1,2"]).cells) == 2 * 246
    assert {*grid.ad_hoc([PAPER, "grids/rank-llm"], []).axes} == {"config", "dataset", "model", "method", "system"}
    with pytest.raises(InputError, match="an axis has no values"):
        grid.ad_hoc(["quickstart.yaml"], ["seed="])
    for axis, message in (
        ("seed", "expected a dotted key"),
        ("sed=1", "'1' is no part"),
        ("seed=[1", "not a YAML value"),
        ("queries.limit=1", "queries.limit is set by two axes"),
    ):
        with pytest.raises(InputError, match=message):
            grid.ad_hoc(["quickstart.yaml"], ["queries={limit: 2},{sample: 2}", axis])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "grid: {model: [flan-t5-lage]}",
            "line 2: axis model: 'flan-t5-lage' is no part; did you mean 'flan-t5-large'",
        ),
        ("grid: {way: [one]}", "line 2: axis way: 'one' is no part; give each of its values a name"),
        ("grid: {seed: []}", "line 2: axis seed has no values"),
        ("grid: {seed: [1, 1]}", "line 2: axis seed has a value twice"),
        ("grid: {seed: 1}", "line 2: grid.seed"),
        ("grid: {seed: [1]}\nexclude: [{sed: 1}]", "line 3: no axis is sed; did you mean 'seed'"),
        ("grid: {seed: [1]}\nexclude: [{seed: 2}]", "line 3: axis seed has no value '2'; known: 1"),
        ("grid: {seed: [1]}\nexclude: [{seed: 1}]", "every combination is excluded"),
        ("grid: {ranker.num_chld: [1]}", "line 2: unknown key ranker.num_chld; did you mean 'num_child'"),
        ("grid: {ranker: [{k: 1}, {k: 2}], ranker.k: [3]}", "ranker.k is set by two axes, so one would not count"),
        ("grid: {seed: [1]}\nexclud: []", "line 3: unknown key exclud"),
        ("grid: {seed: [1]}\nexpected: none.tsv", "line 3: table .*none.tsv cannot be read"),
        (
            "grid: {seed: [1]}\nexpected: bad.tsv",
            "bad.tsv, line 1: page: columns should be axes of the grid, and measure",
        ),
        ("grid: {seed: [1]}\nexpected: short.tsv", "short.tsv, line 2: 2 columns between tabs, where line 1 has 5"),
        ("grid: {seed: [1]}\nexpected: other.tsv", "other.tsv, line 2: axis seed has no value '2'"),
        (
            "grid: {seed: [1]}\nexpected: text.tsv",
            r"text.tsv, line 2: expected.nDCG@10.value: should be a valid number",
        ),
    ],
)
def test_what_is_no_grid_is_refused_with_its_line(write: Write, text: str, message: str) -> None:
    head = "seed\tmeasure\tvalue\ttolerance\tsource"
    write("bad.tsv", f"{head}\tpage\n")
    write("short.tsv", f"{head}\n1\tnDCG@10\n")
    write("other.tsv", f"{head}\n2\tnDCG@10\t0.5\t0\tx\n")
    write("text.tsv", f"{head}\n1\tnDCG@10\thalf\t0\tx\n")
    with pytest.raises(InputError, match=message):
        grid.read(str(write("a.yaml", f"base: quickstart.yaml\n{text}"))).cells[0].load()
