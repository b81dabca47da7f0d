"""The lists: every key with its meaning, the keys of one method or backend, one prompt, configs by folder."""

from __future__ import annotations

import pytest
from r2llm.pipeline.configs import listing
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.configs.schema import METHOD
from r2llm.rerankers import catalog
from r2llm.rerankers.errors import InputError


def test_every_key_has_a_type_a_default_and_a_meaning() -> None:
    rows = listing.rows("keys")
    assert all(len(row) == len(listing.KEYS) and all(row) and "\n" not in "".join(row) for row in rows)
    of = {row[0]: row[1:] for row in rows}
    assert of["first_stage.bm25.k1"][:2] == ("number", "0.9")
    assert of["queries.ids"][:2] == ("list of text | null", "none")
    assert of["name"][:2] == ("text", "required")
    assert of["schedule"][:2] == ("throughput | latency", "throughput")
    assert of["expected.*.tolerance"][:2] == ("number", "required")
    assert of["stages.*.depth"][0] == "integer | null"
    assert of["model.budget.usd"][0] == "number | null"
    assert of["model.trust_remote_code"][:2] == ("true | false", "false")
    assert of["model.noise"][2].endswith(" (simulated)")
    assert of["ranker.passages.words"][1] == "150"
    known = {row[0].split(".")[1] for row in rows if row[0].startswith("ranker.")}
    assert known == {
        key for name in catalog.names("method") for taker in METHOD.takers(name) for key in taker.model_fields
    }


def test_one_methods_or_backends_keys() -> None:
    rows = listing.about("methods", "setwise.heapsort")
    assert rows[2][:3] == ("num_child", "integer", "2")
    assert {row[0] for row in rows} >= {"k", "prompt", "scoring"}
    for what in ("backends", "models"):
        assert listing.about(what, "simulated")[:2] == [
            ("answers", "oracle | noisy | inverse | hash | rel", "oracle", "the rule that answers"),
            ("noise", "number", "0.1", "how often a noisy oracle answers wrongly"),
        ]


def test_the_text_of_a_prompt_or_config() -> None:
    assert listing.about("prompts", "yes_no") == catalog.prompt_file("yes_no").read_text()
    assert listing.about("prompts", "study_setwise/tone=please") == catalog.prompt_file("study_setwise").read_text()
    assert listing.about("configs", "quickstart") == (config.SHIPPED / "quickstart.yaml").read_text()


def test_a_grid_is_one_line_of_the_configs() -> None:
    rows = dict(listing.rows("configs"))
    assert rows["grids/setwise-paper"].startswith("246 configs: dataset (10) by model (3) by method (9). ")
    assert [row for row in listing.about("configs", "grids") if "setwise-paper" in row[0]]
    text = (config.SHIPPED / "grids" / "setwise-paper.yaml").read_text()
    assert listing.about("configs", "grids/setwise-paper") == text


@pytest.mark.parametrize(
    ("what", "name", "message"),
    [
        ("methods", "setwise.heapsrt", "unknown method 'setwise.heapsrt'; did you mean 'setwise.heapsort"),
        ("backends", "transformer", "unknown backend 'transformer'; did you mean 'transformers'"),
        ("prompts", "yes_n", "unknown prompt 'yes_n'; did you mean 'yes_no'"),
        ("configs", "quickstrt", "no config quickstrt .*did you mean 'quickstart.yaml'"),
        ("keys", "seed", "r2llm list keys takes no name, such as seed"),
    ],
)
def test_a_name_that_is_not_there(what: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        listing.about(what, name)
