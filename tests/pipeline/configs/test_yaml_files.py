"""YAML with places: extends, --set, repeats, and everything that is not a config."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline.configs import grid, yaml_files
from r2llm.pipeline.configs import shipped as configs
from r2llm.rerankers.errors import InputError

Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def _shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("shipped")
    monkeypatch.setattr(configs, "SHIPPED", folder)
    (folder / "systems").mkdir()
    (folder / "base.yaml").write_text("ranker: {k: 10, num_child: 2}\nseed: 1\n")
    (folder / "systems" / "big.yaml").write_text("model: {name: big}\n")


def read(path: Path) -> yaml_files.Document:
    """The file with everything it extends."""
    return grid.cell(str(path)).source.document(())[0]


def values(path: Path) -> object:
    return read(path).values


# Lists


def test_a_number_changes_an_item_of_a_list(write: Write) -> None:
    write("base.yaml", "stages:\n- {ranker: {k: 1, method: m}}\n- {depth: 3}\n")
    found = read(write("a.yaml", "extends: base.yaml\nstages: {'1': {depth: 5}}"))
    found.merge(yaml_files.setting("stages.0.ranker.k=2"))
    assert found.values == {"stages": [{"ranker": {"k": 2, "method": "m"}}, {"depth": 5}]}
    assert yaml_files.value_at(found.values, ("stages", "0", "ranker", "k")) == 2
    assert (
        yaml_files.value_at(found.values, ("stages", "2", "depth"))
        is yaml_files.value_at(found.values, ("stages", "x"))
        is None
    )
    for name in ("2", "x", "-1"):
        with pytest.raises(InputError, match=rf"--set stages\.{name}\.depth=1: stages has no item {name}"):
            found.merge(yaml_files.setting(f"stages.{name}.depth=1"))


def test_items_of_a_list_have_places(write: Write) -> None:
    write("base.yaml", "stages:\n- ranker: {k: 1}\n- depth: 3\n")
    found = read(write("a.yaml", "extends: base.yaml"))
    assert found.places[("stages", "1", "depth")].words.endswith("base.yaml, line 3")
    assert found.places[("stages", "0", "ranker", "k")].words.endswith("base.yaml, line 2")
    replaced = read(write("b.yaml", "extends: base.yaml\nstages: [{}]"))
    place = replaced.place(("stages", "1", "depth"))
    assert place is not None
    assert place.words.endswith("b.yaml, line 2")


# Extends


def test_a_name_is_looked_up_beside_the_file_and_then_among_the_shipped(write: Write) -> None:
    assert values(write("a.yaml", "extends: base\nseed: 2")) == {
        "ranker": {"k": 10, "num_child": 2},
        "seed": 2,
    }
    write("base.yaml", "seed: 7")
    assert values(write("a.yaml", "extends: base.yaml")) == {"seed": 7}
    assert values(write("b.yaml", "extends: systems/big.yaml")) == {"model": {"name": "big"}}


def test_a_name_is_relative_to_the_file_that_extends(write: Write) -> None:
    write("deep/parent.yaml", "extends: grandparent.yaml\nname: parent")
    write("deep/grandparent.yaml", "seed: 5")
    write("grandparent.yaml", "seed: 6")
    assert values(write("a.yaml", "extends: deep/parent.yaml")) == {"seed": 5, "name": "parent"}


def test_mappings_merge_deeply_and_later_files_win(write: Write) -> None:
    write("one.yaml", "ranker: {k: 1, method: m}\nfirst_stage: {bm25: {k1: 0.5, b: 0.5}}\nseed: 1")
    write("two.yaml", "ranker: {k: 2}\nfirst_stage: {bm25: {b: 0.6}}\nevaluate: {measures: [AP, RR]}")
    merged = values(write("a.yaml", "extends: [one.yaml, two.yaml]\nranker: {num_child: 3}\nseed: 9"))
    assert merged == {
        "ranker": {"k": 2, "method": "m", "num_child": 3},
        "first_stage": {"bm25": {"k1": 0.5, "b": 0.6}},
        "seed": 9,
        "evaluate": {"measures": ["AP", "RR"]},
    }
    replaced = values(write("b.yaml", "extends: two.yaml\nevaluate: {measures: [P@5]}"))
    assert isinstance(replaced, dict)
    assert replaced["evaluate"] == {"measures": ["P@5"]}  # a list replaces a list


@pytest.mark.parametrize(
    ("section", "inherited", "own", "left"),
    [
        ("first_stage", "{bm25: {index: i}, depth: 5}", "{run: r}", {"run": "r", "depth": 5}),
        ("first_stage", "{run: r}", "{bm25: {index: i}}", {"bm25": {"index": "i"}}),
        ("queries", "{limit: 3}", "{sample: 2, seed: 1}", {"sample": 2, "seed": 1}),
        ("queries", "{sample: 2, seed: 1}", "{ids: [q]}", {"ids": ["q"], "seed": 1}),
        ("queries", "{ids: [q]}", "{limit: 3}", {"limit": 3}),
        ("queries", "{limit: 3}", "{seed: 3}", {"limit": 3, "seed": 3}),
        ("dataset", "{beir: f}", "{docs: d, queries: q}", {"docs": "d", "queries": "q"}),
        ("dataset", "{docs: d, queries: q}", "{candidates: c}", {"candidates": "c"}),
    ],
)
def test_alternatives_replace_each_other(write: Write, section: str, inherited: str, own: str, left: object) -> None:
    write("parent.yaml", f"{section}: {inherited}")
    assert values(write("a.yaml", f"extends: parent\n{section}: {own}")) == {section: left}


def test_both_alternatives_in_one_file_stay_for_the_schema_to_refuse(write: Write) -> None:
    both = {"first_stage": {"bm25": {"index": "i"}, "run": "r"}}
    assert values(write("a.yaml", "first_stage: {bm25: {index: i}, run: r}")) == both


def test_extending_in_a_circle_is_refused(write: Write) -> None:
    write("a.yaml", "extends: b.yaml")
    write("b.yaml", "extends: a.yaml")
    with pytest.raises(InputError, match=r"a\.yaml: extends itself, by way of a\.yaml and b\.yaml"):
        values(Path("a.yaml").absolute())


def test_two_parents_may_share_a_grandparent(write: Write) -> None:
    write("one.yaml", "extends: base\nname: one")
    write("two.yaml", "extends: base\nname: two")
    merged = values(write("a.yaml", "extends: [one.yaml, two.yaml]"))
    assert merged == {"ranker": {"k": 10, "num_child": 2}, "seed": 1, "name": "two"}


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("bse", r"a\.yaml, line 2: no config bse .*did you mean 'base\.yaml'"),
        ("[base, 031_1]", r"a\.yaml, line 2: no config 031_1 "),
        ("3", r"a\.yaml, line 2: no config 3 "),
        ("[base, [base]]", r"a\.yaml, line 2: extends takes names of config files"),
        ("a" * 5000, r"a\.yaml, line 2: no config aaa"),
        ('"a\\0b"', r"a\.yaml, line 2: half a character, or one that ends texts"),
        ("{base: yes}", r"a\.yaml, line 2: extends takes names of config files"),
    ],
)
def test_bad_parents_are_refused_with_their_line(write: Write, extends: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        values(write("a.yaml", f"name: a\nextends: {extends}"))


def test_a_fault_in_a_parent_names_the_parent(write: Write) -> None:
    write("parent.yaml", "name: p\nranker: [1")
    with pytest.raises(InputError, match=r"parent\.yaml, line 2: not valid YAML"):
        values(write("a.yaml", "extends: parent.yaml"))


def test_places_name_the_file_and_line_of_the_last_word(write: Write) -> None:
    write("parent.yaml", "seed: 1\nranker:\n  k: 3\n  num_child: 2")
    document = read(write("a.yaml", "extends: parent.yaml\nranker:\n  k: 4\n"))
    assert document.line(("ranker", "k")).endswith("a.yaml, line 3")
    assert document.line(("ranker", "num_child")).endswith("parent.yaml, line 4")
    assert document.line(("ranker", "num_child", "deeper")).endswith("parent.yaml, line 4")
    assert document.line(("nowhere",)) == ""


# Anchors


def test_anchors_and_merge_keys_work(write: Write) -> None:
    text = """\
        one: &figures {value: 1, tolerance: 2}
        two: *figures
        three:
          <<: *figures
          value: 3
        """
    assert values(write("a.yaml", text)) == {
        "one": {"value": 1, "tolerance": 2},
        "two": {"value": 1, "tolerance": 2},
        "three": {"value": 3, "tolerance": 2},
    }


def test_overriding_one_use_of_an_anchor_leaves_the_others(write: Write) -> None:
    document = read(write("a.yaml", "one: &x {value: {v: 1}}\ntwo: *x"))
    document.merge(yaml_files.setting("two.value.v=5"))
    assert document.values == {"one": {"value": {"v": 1}}, "two": {"value": {"v": 5}}}


def bomb(first: str, of: str) -> str:
    """Ten mappings or lists, each of ten aliases of the one before it: 10^10 values in 450 bytes."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {of.replace('*', f'*a{n - 1}')}" for n in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb("[x, x]", f"[{', '.join('*' * 10)}]"),
        bomb("{v: 1}", f"{{{', '.join(f'k{n}: *' for n in range(10))}}}"),
    ],
)
def test_aliases_of_aliases_are_refused_at_once(write: Write, text: str) -> None:
    with pytest.raises(InputError, match=r"a\.yaml, line \d+: aliases of aliases make more than 100,000 values of it"):
        values(write("a.yaml", text))


def test_merged_aliases_of_aliases_are_one_mapping(write: Write) -> None:
    path = write("a.yaml", bomb("{v: 1}", f"{{<<: [{', '.join('*' * 10)}]}}"))
    assert values(path) == {f"a{n}": {"v": 1} for n in range(10)}


def test_a_value_may_be_repeated_as_often_as_a_config_can_mean(write: Write) -> None:
    found = read(write("a.yaml", f"a: &a [x, y]\nb: [{', '.join(['*a'] * 1000)}]"))
    assert found.values["b"] == [["x", "y"]] * 1000


# As written


@pytest.mark.parametrize("text", ["031_1", "1:30", "1e3", "0o7", "051", "yes", "null", "~", "2019-01-01", ".inf", "="])
def test_the_characters_of_a_scalar_stand_beside_its_value(write: Write, text: str) -> None:
    document = read(write("a.yaml", f"a: &x {{b: [q, {text}]}}\nc: {text}\nd: {{<<: *x}}\ne: *x"))
    document.merge(yaml_files.setting(f"f.g={text}"))
    for key in (("a", "b", "1"), ("c",), ("d", "b", "1"), ("e", "b", "1"), ("f", "g")):
        assert document.places[key].text == text
    assert document.places["a",].text is None


def test_dates_and_equals_signs_are_text(write: Write) -> None:
    text = "a: 2019-01-01\nb: 2019-13-45\nc: 2001-12-14t21:59:43.10-05:00\nd: =\n"
    assert values(write("a.yaml", text)) == {
        "a": "2019-01-01",
        "b": "2019-13-45",
        "c": "2001-12-14t21:59:43.10-05:00",
        "d": "=",
    }


def test_integers_have_64_bits(write: Write) -> None:
    text = f"a: {2**63 - 1}\nb: -{2**63 - 1}\nc: {2**63}\nd: -{'9' * 400}\ne: {'9' * 5000}\n"
    assert values(write("a.yaml", text)) == {
        "a": 2**63 - 1,
        "b": 1 - 2**63,
        "c": math.inf,
        "d": math.inf,
        "e": math.inf,
    }


# --set


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("seed=4", {"seed": 4}),
        ("ranker.num_child=4", {"ranker": {"num_child": 4}}),
        (" ranker.k =4", {"ranker": {"k": 4}}),
        ("a.b.c=x", {"a": {"b": {"c": "x"}}}),
        ("evaluate.measures=[nDCG@10, AP(rel=2)]", {"evaluate": {"measures": ["nDCG@10", "AP(rel=2)"]}}),
        ("first_stage.bm25={index: build, k1: 1.2}", {"first_stage": {"bm25": {"index": "build", "k1": 1.2}}}),
        ("model.exact=true", {"model": {"exact": True}}),
        ("model.revision=null", {"model": {"revision": None}}),
        ("model.revision=", {"model": {"revision": None}}),
        ("name='2019'", {"name": "2019"}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_a_setting_is_a_dotted_key_and_a_yaml_value(text: str, meaning: object) -> None:
    document = yaml_files.setting(text)
    assert document.values == meaning
    assert all(place.words == f"--set {text}" for place in document.places.values())


@pytest.mark.parametrize("text", ["seed", "", "=4", "ranker.=4", ".k=4", "a..b=4"])
def test_a_setting_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected a dotted key and a YAML value, such as ranker\.num_child=4"):
        yaml_files.setting(text)


@pytest.mark.parametrize("value", ["[1", "!!python/name:os.system", "{[a]: 1}", "{a: 1, a: 2}", "a: b: c", "\x07"])
def test_a_setting_that_is_no_yaml_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"^--set seed=.*not a YAML value"):
        yaml_files.setting(f"seed={value}")


# Not a config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nname: a\nseed: 2", "line 3: seed is given twice"),
        ("ranker:\n  k: 1\n  k: 2", "line 3: k is given twice"),
        ("a: [{b: 1, b: 2}]", "line 1: b is given twice"),
        ("seed: 1\n? [a, b]\n: 1", "line 2: a key must be a word"),
        ("{a: b}: 1", "line 1: a key must be a word"),
        ("seed: 1\n5: x", "line 2: a key must be a word"),
        ("seed: 1\non: x", "line 2: a key must be a word, in quotes if need be"),
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("\n- a\n- b", "line 2: expected a mapping of keys to values"),
        ("just text", "line 1: expected a mapping"),
        ("null", "line 1: expected a mapping"),
        ("seed: 1\nname: [a", "line 2: not valid YAML"),
        ("seed: 1\na: b: c", "line 2: not valid YAML: mapping values are not allowed here"),
        ("seed: 1\n\tname: a", "line 2: not valid YAML"),
        ("seed: 1\n---\nseed: 2", "line 2: not valid YAML"),
        ("a: *nowhere", "line 1: not valid YAML: found undefined alias"),
        ("seed: 1\na: !!python/object/apply:os.system [ls]", r"line 2: not valid YAML: the tag .* is not allowed"),
        ("a: !mine 1", r"line 1: not valid YAML: the tag '!mine' is not allowed"),
        ("a: &a {b: *a}", "not valid YAML: it is nested without end"),
        ("a: " + "[" * 5000, "not valid YAML: it is nested without end"),
        ("seed: 1\na: " + "[" * 101 + "]" * 101, "line 2: not valid YAML: it is nested without end"),
        ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 300)), "it is nested without end"),
        ('seed: 1\n"a\\nb": 1', "line 2: a key must be a word"),
        ('seed: 1\nname: "\\ud800"', "line 2: half a character"),
        ("a: !!set {b}", "line 1: not valid YAML: the tag .* is not allowed"),
        ("a: !!binary aGk=", "line 1: not valid YAML: the tag .* is not allowed"),
        ("a: !!bool maybe", "not valid YAML"),
        ("a: !!timestamp soon", "not valid YAML"),
        ('a: !!int ""', "not valid YAML"),
        ("a: \x07", "not valid YAML"),
    ],
)
def test_what_is_not_a_config_is_refused_in_one_line(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        values(write("a.yaml", text))
    assert "a.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(InputError, match="cannot be read"):
        values(path)


def test_a_file_of_megabytes_is_no_config(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * 4_000_001)
    with pytest.raises(InputError, match=r"a\.yaml: longer than 4,000,000 bytes"):
        values(path)
