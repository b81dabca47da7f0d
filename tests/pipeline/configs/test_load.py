"""The config: what is accepted, what is refused, and where the message points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.configs.schema import BeirFolder, Bm25, DataFiles
from r2llm.rerankers.errors import InputError

Write = Callable[[str, str], Path]


def load(write: Write, text: str, *settings: str, queries: int | None = None) -> config.Loaded:
    write("a.yaml", f"dataset: vaswani\n{text}")
    return config.load("a.yaml", settings, queries)


# Accepted


def test_defaults(write: Write) -> None:
    loaded = load(write, "")
    assert loaded.config.name == "a"
    assert loaded.config.first_stage.depth == 100
    assert loaded.config.evaluate.measures == ("nDCG@10",)
    assert (loaded.config.schedule, loaded.config.seed) == ("throughput", 0)
    assert (loaded.config.ranker, loaded.config.model) == (None, None)
    assert loaded.notes == ()


def test_the_name_is_the_files_stem_unless_given(write: Write) -> None:
    write("systems/dl19.v2.yaml", "dataset: vaswani")
    assert config.load("systems/dl19.v2.yaml").config.name == "dl19.v2"
    assert load(write, "name: mine").config.name == "mine"
    assert load(write, "name: mine", "name=yours").config.name == "yours"


def test_a_child_of_a_shipped_config_has_its_own_name(write: Write) -> None:
    write("child.yaml", "extends: quickstart.yaml\nranker: {k: 3}")
    child = config.load("child.yaml").config
    assert child.name == "child"
    assert child.ranker == {"method": "setwise.heapsort", "num_child": 2, "k": 3}
    assert child.dataset == str((config.SHIPPED / "quickstart").resolve())


def test_a_shipped_config_is_found_by_its_bare_name(write: Write) -> None:
    write("unrelated.txt", "")
    assert config.load("quickstart.yaml").config == config.load("quickstart").config
    write("quickstart.yaml", "dataset: vaswani")  # the user's own comes first
    assert config.load("quickstart.yaml").config.dataset == "vaswani"


def test_numbers_are_taken_for_query_ids(write: Write) -> None:
    assert load(write, "queries: {ids: [19335, q2]}").config.queries.ids == ("19335", "q2")
    assert load(write, "queries: {ids: q2}").config.queries.ids == ("q2",)


AS_WRITTEN = (
    *("31_1", "051", "1:30", "1:30.5", "1e3", "1.0e+3", "1.50", "0o7", "0x1F", "0b1", "+5"),
    *("-0", "yes", "NO", "on", "True", "null", "Null", "~", "2019-01-01", ".inf", "-.INF", ".nan"),
    *("2001-12-14 21:59:43", "=", "12345678901234567890123"),
)
"""What YAML 1.1 reads as another number, a truth value, nothing or a date."""


def test_ids_are_what_was_typed(write: Write) -> None:
    for text in AS_WRITTEN:
        assert load(write, f"queries: {{ids: [{text}, q2]}}").config.queries.ids == (text, "q2")
        assert load(write, f"queries:\n  ids:\n  - q1\n  - {text}\n").config.queries.ids == ("q1", text)
        assert load(write, "", f"queries.ids=[{text}]").config.queries.ids == (text,)
        assert load(write, "", f"queries={{ids: [{text}]}}").config.queries.ids == (text,)
        write("b.yaml", f"queries: {{ids: [{text}]}}")
        assert load(write, "extends: b").config.queries.ids == (text,)
        if text not in ("null", "Null", "~"):
            assert load(write, f"queries: {{ids: {text}}}").config.queries.ids == (text,)
            assert load(write, "", f"queries.ids={text}").config.queries.ids == (text,)


def test_names_are_what_was_typed(write: Write) -> None:
    text = """
name: 2019
first_stage: {bm25: {index: 1_0}}
ranker: {method: setwise.heapsort, num_child: 0x3, stop: [1.0, 2]}
model: {backend: transformers, name: 0o7, revision: 1e5, trust_remote_code: yes, batch_size: 1_000}
expected: {AP: {value: 1, tolerance: 1e-2, source: 2310.09490}}
"""
    loaded = load(write, text.replace("1e-2", "0.01"))
    assert loaded.config.name == "2019"
    assert loaded.config.first_stage.bm25 == Bm25(index="1_0")
    assert loaded.config.expected["AP"].source == "2310.09490"
    assert loaded.config.ranker == {"method": "setwise.heapsort", "num_child": 3, "stop": ["1.0", "2"]}
    model = {"name": "0o7", "revision": "1e5", "trust_remote_code": True, "batch_size": 1000}
    assert loaded.config.model == {"backend": "transformers"} | model
    for revision in ("051", "2019-01-01", "1234567", "yes"):
        changed = load(write, text.replace("1e-2", "0.01"), f"model.revision={revision}").config
        assert changed.model is not None
        assert changed.model["revision"] == revision
    assert load(write, text.replace("1e-2", "0.01"), "model.revision=null").models == [
        load(write, text.replace("1e-2", "0.01").replace(" revision: 1e5,", "")).models[0]
    ]


def test_texts_in_stages_and_in_aliases_are_what_was_typed(write: Write) -> None:
    text = """
model: &m {backend: openai, name: 1e5, base_url: [051], omit: [no], extra_body: {seed: 7, think: no}, budget: {usd: 3}}
stages:
- {ranker: {method: setwise.heapsort, stop: 1e3}, model: {<<: *m, name: 0o7}}
- {ranker: {method: setwise.heapsort}, model: *m}
"""
    first, second = load(write, text).models
    for model, name in ((first, "0o7"), (second, "1e5")):
        content = model.model_dump()
        assert (content["name"], content["base_url"], content["omit"]) == (name, ["051"], ["no"])
        assert content["extra_body"] == {"seed": 7, "think": False}
        assert content["budget"]["usd"] == 3.0
    assert load(write, text).rankers[0].options.stop == ("1e3",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"seed: {'9' * 400}", r"line 2: seed: 9{40} is beyond 64 bits or no number"),
        (f"first_stage: {{depth: {'9' * 5000}}}", r"line 2: first_stage\.depth: 9{40} is beyond 64 bits or no number"),
        (f"seed: {2**63}", r"line 2: seed: 9223372036854775808 is beyond 64 bits or no number"),
        ("fuse: {method: rrf, k: .inf}", r"line 2: fuse\.k: \.inf is beyond 64 bits or no number"),
        (
            "model: {backend: openai, name: x, extra_body: {a: [.nan]}}",
            r"model\.extra_body\.a\.0: \.nan is beyond 64 bits or no number",
        ),
        (
            "ranker: {method: setwise.heapsort, temperature: .nan}",
            r"line 2: ranker\.temperature: \.nan is beyond 64 bits or no number",
        ),
        (
            "ranker: {method: setwise.heapsort, num_permutation: " + "9" * 400 + "}",
            r"line 2: ranker\.num_permutation: 9",
        ),
        (f"dataset2: {'9' * 5000}", r"line 2: dataset2: 9{40} is beyond 64 bits or no number"),
    ],
)
def test_numbers_that_no_number_holds_are_refused(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(write, text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-that-name/x"])
def test_what_cannot_be_a_path_is_none(write: Write, name: str) -> None:
    write("a.yaml", f"dataset: {name}\nfirst_stage: {{run: {name}}}")
    assert config.load("a.yaml").config.dataset == name


def test_a_shipped_dataset_is_found_by_its_name(write: Write) -> None:
    shipped = str((config.SHIPPED / "quickstart").resolve())
    write("mine.yaml", (config.SHIPPED / "quickstart.yaml").read_text())
    assert config.load("mine.yaml").config.dataset == shipped
    assert config.load("mine.yaml", ["dataset={beir: quickstart}"]).config.dataset == BeirFolder(beir=shipped)
    assert config.load("mine.yaml", ["dataset=parts"]).config.dataset == "parts"
    write("quickstart/corpus.jsonl", "")  # the user's own comes first
    assert config.load("mine.yaml").config.dataset == str(Path("quickstart").resolve())


def test_set_and_queries_lie_over_the_file_in_order(write: Write) -> None:
    loaded = load(write, "queries: {ids: [q1]}\nseed: 1", "seed=2", "seed=3", queries=4)
    assert loaded.config.seed == 3
    assert (loaded.config.queries.first, loaded.config.queries.ids) == (4, ("q1",))


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("name=other", False),
        ("schedule=latency", False),
        ("evaluate.measures=[AP]", False),
        ("model.device=cpu", False),
        ("model.batch_size=4", False),
        ("evaluate={measures: [AP]}", False),
        ("shared_ledger=answers", False),
        ("max_unparsed=0.5", False),
        ("expected.AP={value: 1, tolerance: 1, source: s}", False),
        ("model.noise=0.5", False),  # of another backend
        ("ranker.window=4", False),  # of another method
        ("model.revision=null", True),
        ("ranker={method: setwise.bubblesort}", True),
        ("seed=1", True),
        ("ranker.k=3", True),
        ("model.dtype=float16", True),
        ("first_stage.depth=10", True),
    ],
)
def test_it_is_known_whether_a_setting_can_change_the_ranking(write: Write, setting: str, changes: bool) -> None:
    text = "ranker: {method: setwise.heapsort}\nmodel: {backend: transformers, name: x}"
    assert load(write, text, setting).changes_ranking is changes
    assert load(write, text, queries=3).changes_ranking is True


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("ranker: {method: pointwise.yes_no, num_child: 3}", "ranker.num_child is not used by pointwise.yes_no"),
        ("model: {backend: simulated, dtype: float32}", "model.dtype is not used by simulated"),
    ],
)
def test_a_key_of_another_method_or_backend_is_noted_once_and_dropped(write: Write, text: str, note: str) -> None:
    loaded = load(write, text)
    assert loaded.notes == (note,)
    section = loaded.config.ranker or loaded.config.model
    assert section is not None
    assert len(section) == 1


def test_a_listener_hears_what_was_noted(write: Write, heard) -> None:
    noted = load(write, "ranker: {method: pointwise.yes_no, num_child: 3}")
    assert config.load_noting("a.yaml", (), None, heard) == noted
    assert heard.notes == ["ranker.num_child is not used by pointwise.yes_no"]
    narrowed = config.load_noting("a.yaml", ["seed=7"], 2, heard).config
    assert (narrowed.seed, narrowed.queries.limit) == (7, 2)


def test_a_config_without_ranker_or_model_says_so_when_they_are_needed(write: Write) -> None:
    with pytest.raises(InputError, match="config a has no `ranker`; rerank needs one"):
        _ = load(write, "").rankers
    with pytest.raises(InputError, match="config a has no `model`; rerank needs one"):
        _ = load(write, "ranker: {method: setwise.heapsort}").models
    write(
        "b.yaml",
        "dataset: vaswani\nstages:\n- {ranker: {method: setwise.heapsort}, model: {backend: simulated}}\n"
        "- ranker: {method: setwise.heapsort}\n",
    )
    with pytest.raises(InputError, match="config b has no `model`; neither has stage 2; rerank needs one"):
        _ = config.load("b.yaml").stages


# Paths


def test_paths_are_looked_up_beside_the_yaml_and_then_in_the_working_folder(write: Write) -> None:
    for name in ("etc/run.trec", "run.trec", "etc/queries", "queries", "docs.jsonl", "etc/my.yaml"):
        write(name, "here")
    write(
        "etc/a.yaml",
        "dataset: {docs: docs.jsonl, queries: queries, qrels: nowhere.txt}\nfirst_stage: {run: run.trec}\n",
    )
    loaded = config.load("etc/a.yaml")
    here = Path.cwd().resolve()
    assert isinstance(loaded.config.dataset, DataFiles)
    assert loaded.config.dataset.docs == str(here / "docs.jsonl")
    assert loaded.config.dataset.queries == str(here / "etc" / "queries")
    assert loaded.config.dataset.qrels == "nowhere.txt"
    assert loaded.config.first_stage.run == str(here / "etc" / "run.trec")


def test_a_file_may_be_one_of_an_installed_package(write: Write) -> None:
    import torch

    model = load(write, "model: {backend: transformers, gguf: torch/version.py}").config.model
    assert model is not None
    assert model["gguf"] == str(Path(torch.__file__).with_name("version.py").resolve())


def test_a_path_in_a_parent_is_looked_up_beside_the_parent_and_in_set_in_the_working_folder(write: Write) -> None:
    write("etc/run.trec", "")
    write("run.trec", "")
    write("etc/parent.yaml", "dataset: vaswani\nfirst_stage: {run: run.trec}")
    write("a.yaml", "extends: etc/parent.yaml")
    here = Path.cwd().resolve()
    assert config.load("a.yaml").config.first_stage.run == str(here / "etc" / "run.trec")
    assert config.load("a.yaml", ["first_stage.run=run.trec"]).config.first_stage.run == str(here / "run.trec")


def test_words_stay_words_whatever_folders_and_files_are_called(write: Write) -> None:
    for name in ("index", "build", "setwise", "oracle", "vaswani"):
        write(name, "a file that is called so")
    text = """\
dataset: {docs: index, queries: q.tsv}
first_stage: {bm25: {index: build}}
ranker: {method: setwise.heapsort, prompt: setwise}
model: {backend: simulated, answers: oracle}
"""
    write("a.yaml", text)
    expected = config.load("a.yaml").config
    assert expected.first_stage.bm25 == Bm25(index="build", k1=0.9, b=0.4)
    for name in ("index", "build", "setwise", "oracle"):
        Path(name).unlink()
        Path(name).mkdir()
    assert config.load("a.yaml").config == expected
    assert load(write, "").config.dataset == "vaswani"


# Refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Unknown keys, at each level
        ("rankr: {}", r"line 2: unknown key rankr; did you mean 'ranker'\?"),
        ("queries: {limt: 3}", r"line 2: unknown key queries\.limt; did you mean 'limit'\?"),
        ("first_stage:\n  dept: 3", r"line 3: unknown key first_stage\.dept; did you mean 'depth'\?"),
        ("first_stage:\n  bm25:\n    idx: x", r"line 4: unknown key first_stage\.bm25\.idx"),
        ("evaluate: {measure: AP}", r"line 2: unknown key evaluate\.measure; did you mean 'measures'\?"),
        ("ranker: {method: setwise.heapsort, num_chld: 1}", r"unknown key ranker\.num_chld; did you mean 'num_child'"),
        ("model: {backend: simulated, nois: 1}", r"unknown key model\.nois; did you mean 'noise'\?"),
        ("expected: {AP: {value: 1, tolerence: 1, source: s}}", r"expected\.AP\.tolerence; did you mean 'tolerance'"),
        (
            "model: {backend: openai, name: x, budget: {dollars: 1}}",
            r"model\.budget\.dollars; known: calls, tokens, usd",
        ),
        ("ranker: {method: pointwise.qlm, passages: {word: 1}}", r"ranker\.passages\.word; did you mean 'words'\?"),
        (
            "stages: [{ranker: {method: pointwise.qlm, passages: {word: 1}}}]",
            r"stages\.0\.ranker\.passages\.word; .*'words'",
        ),
        ("stages: [{rankr: {method: pointwise.qlm}}]", r"stages\.0\.rankr; did you mean 'ranker'\?"),
        # Unknown names
        ("ranker: {method: setwise.heapsrt}", r"line 2: ranker\.method: unknown method .*did you mean"),
        ("ranker: {k: 3}", r"line 2: ranker\.method must be one of .*setwise\.heapsort"),
        ("model: {backend: simulatd}", r"line 2: model\.backend: unknown backend .*did you mean 'simulated'\?"),
        ("model: {name: x}", r"line 2: model\.backend must be one of .*simulated"),
        ("ranker:\n  method: setwise.heapsort\n  prompt: setwis", r"unknown prompt 'setwis'; did you mean 'setwise'"),
        ("ranker: {method: setwise.heapsort, prompt: no.yaml}", r"line 2: .*prompt no\.yaml: cannot be read"),
        ("evaluate: {measures: [nDCG@10, nDGC@10]}", r"line 2: evaluate: nDGC@10 is no measure of ir-measures"),
        ("evaluate: {measures: [P@0]}", r"P@0 is no measure .*cutoff must be at least 1"),
        ("evaluate: {measures: [nDCG(foo=1)]}", r"nDCG\(foo=1\) is no measure"),
        ("evaluate: {measures: [nDCG@1.5]}", r"nDCG@1\.5 is no measure"),
        ("evaluate: {measures: []}", r"line 2: evaluate\.measures: "),
        ("model: {backend: simulated, answers: orcle}", r"model\.answers: should be 'oracle', .*not 'orcle'"),
        ("first_stage: {order: random}", r"first_stage\.order: should be 'given', 'inverse' or 'shuffle'"),
        ("schedule: fast", r"schedule: should be 'throughput' or 'latency', not 'fast'"),
        # Numbers
        ("first_stage: {depth: -1}", r"first_stage\.depth: should be greater than or equal to 1, not -1"),
        ("first_stage: {bm25: {index: build, k1: -0.1}}", r"first_stage\.bm25\.k1: .*, not -0\.1"),
        ("first_stage: {bm25: {index: build, b: 1.1}}", r"first_stage\.bm25\.b: .*less than or equal to 1"),
        ("queries: {limit: 0}", r"queries\.limit: .*, not 0"),
        ("queries: {sample: -2}", r"queries\.sample: .*, not -2"),
        ("ranker: {method: setwise.heapsort, k: 0}", r"ranker\.k: .*, not 0"),
        ("ranker: {method: setwise.heapsort, num_child: -2}", r"ranker\.num_child: .*, not -2"),
        ("ranker: {method: setwise.heapsort, passage_tokens: 0}", r"ranker\.passage_tokens: .*, not 0"),
        ("model: {backend: simulated, noise: 1.5}", r"model\.noise: .*less than or equal to 1, not 1\.5"),
        ("model: {backend: transformers, name: x, batch_size: 0}", r"model\.batch_size: .*, not 0"),
        ("expected: {AP: {value: 1, tolerance: -1, source: s}}", r"expected\.AP\.tolerance: .*, not -1"),
        # Types
        ("seed: 1.5", r"seed: should be a valid integer, not 1\.5"),
        ("seed: 'one'", r"seed: should be a valid integer, not 'one'"),
        ("seed: true", r"seed: should be a valid integer, not True"),
        ("name:", r"name: should be a valid string, not None"),
        ("name: [5]", r"name: should be a valid string, not \[5\]"),
        ("name: a b", r"name: String should match pattern .*, not 'a b'"),
        ("name: " + "x" * 201, r"name: String should have at most 200 characters"),
        ("queries: {ids: {a: b}}", r"queries\.ids: should be a list"),
        ("name: ../up", r"name: String should match pattern"),
        ("ranker: {method: setwise.heapsort, k: two}", r"ranker\.k: should be a valid integer, not 'two'"),
        ("ranker: setwise.heapsort", r"line 2: ranker: should be a mapping of keys to values"),
        ("queries: 5", r"line 2: queries: should be a mapping of keys to values, not 5"),
        ("queries: {ids: [[a]]}", r"queries\.ids\.0: .*not \['a'\]"),
        ("queries: {ids: [a, {b: c}]}", r"queries\.ids\.1: should be a valid string"),
        ("first_stage: {bm25: build}", r"first_stage\.bm25: should be a mapping of keys to values, not 'build'"),
        ("first_stage: {run: [3]}", r"first_stage\.run: should be a valid string, not \[3\]"),
        ("expected: {AP: 0.5}", r"expected\.AP: should be a mapping of keys to values, not 0\.5"),
        # What does not go together
        ("queries: {limit: 3, sample: 2}", r"line 2: queries\.sample: give one of limit, sample and ids"),
        ("first_stage: {bm25: {index: build}, run: x}", r"line 2: first_stage\.run: give one of bm25 and run"),
        ("first_stage: {bm25: {k1: 1.0}}", r"first_stage\.bm25\.index is missing"),
        ("model: {backend: transformers}", r"line 2: model: name is missing: a hub id or a folder; or gguf: a file"),
        (
            "ranker: {method: setwise.heapsort, num_child: 23}",
            r"line 2: setwise\.heapsort shows up to 24 documents, but prompt 'setwise' has labels for 23",
        ),
        (
            "ranker: {method: setwise.heapsort, prompt: yes_no}",
            r"line 2: prompt 'yes_no' cannot ask the question of setwise\.heapsort \(choose\): it serves score",
        ),
    ],
)
def test_mistakes_are_refused_with_file_line_and_remedy(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(write, text)
    assert "a.yaml, line " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: {candidate: x}", r"unknown key dataset\.candidate; did you mean 'candidates'\?"),
        ("dataset: {beir: x, splt: y}", r"unknown key dataset\.splt; did you mean 'split'\?"),
        ("dataset: {docs: d}", r"dataset\.queries is missing"),
        ("dataset: {docs: [3], queries: q}", r"dataset\.docs: should be a valid string, not \[3\]"),
        ("dataset:", r"line 1: dataset: should be a valid string, not None"),
        ("dataset: [a]", r"line 1: dataset: should be a valid string"),
        ("name: a", r"a\.yaml: dataset is missing"),
    ],
)
def test_a_dataset_in_no_known_form_is_refused(write: Write, text: str, message: str) -> None:
    write("a.yaml", text)
    with pytest.raises(InputError, match=message):
        config.load("a.yaml")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ranker.num_chld=3", r"^--set ranker\.num_chld=3: unknown key ranker\.num_chld; did you mean 'num_child'\?"),
        ("ranker.method=setwise.bublesort", r"^--set .*did you mean 'setwise\.bubblesort'"),
        ("ranker.num_child=-3", r"^--set ranker\.num_child=-3: ranker\.num_child: .*not -3"),
        ("extends=quickstart.yaml", r"^--set extends=quickstart\.yaml: unknown key extends"),
    ],
)
def test_a_mistake_in_a_setting_names_the_setting(write: Write, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write, "ranker: {method: setwise.heapsort}", setting)


def test_a_mistake_in_a_parent_names_the_parents_line(write: Write) -> None:
    write("parent.yaml", "dataset: vaswani\nranker:\n  method: setwise.heapsort\n  k: -1")
    write("a.yaml", "extends: parent.yaml\nranker:\n  num_child: 3\n")
    with pytest.raises(InputError, match=r"parent\.yaml, line 4: ranker\.k: "):
        config.load("a.yaml")


@pytest.mark.parametrize("name", ["nowhere.yaml", "quickstrt", "/", "."])
def test_a_config_that_is_not_there_is_refused(write: Write, name: str) -> None:
    write("unrelated.txt", "")
    with pytest.raises(InputError, match=f"no config {name} in .* or among the shipped ones.*quickstart.yaml"):
        config.load(name)
