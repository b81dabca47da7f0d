"""`compat` is nothing but ordinary options: setting them one by one does the same."""

import pytest
from r2llm.rerankers import catalog
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.compat import TOOLKITS
from r2llm.rerankers.ranker import Ranker, RankerOptions, Requests
from r2llm.rerankers.types import Ask

IMPLIED = TOOLKITS["llm-rankers"]


@pytest.mark.parametrize("name", ["setwise.bubblesort", "listwise.sliding", "pairwise.allpair", "pointwise.qlm"])
def test_the_options_set_one_by_one_are_the_same_ranker(name: str, rule_backend, make_candidates) -> None:
    params = catalog.method(name).params
    single = {key: value for key, value in IMPLIED.items() if key in (RankerOptions.model_fields | params.model_fields)}
    kind = params.asks[0]
    ask = Ask(kind, ("d00",) if kind == "likelihood" else ("d00", "d01"))
    for architecture in ("encoder_decoder", "decoder_only"):
        backend = rule_backend(lambda request: Reply(), architecture=architecture)
        named, by_hand = (Ranker.create({"method": name} | options) for options in ({"compat": "llm-rankers"}, single))
        assert named.params == by_hand.params
        one, other = (Requests(each, backend, make_candidates()).request(ask) for each in (named, by_hand))
        assert one.key == other.key
        assert named.reading(ask, backend) == by_hand.reading(ask, backend)


def test_every_option_is_one_of_a_ranker_or_of_a_method() -> None:
    fields = set(RankerOptions.model_fields)
    for name in catalog.names("method"):
        fields |= set(catalog.method(name).params.model_fields)
    assert set(IMPLIED) <= fields


@pytest.mark.parametrize("option", ["model_settings", "special_tokens_twice", "count_pad"])
def test_what_can_change_a_reply_changes_its_key(option: str, rule_backend, make_candidates) -> None:
    backend = rule_backend(lambda request: Reply())
    keys = {
        Requests(Ranker.create({"method": "pointwise.qlm"} | options), backend, make_candidates())
        .request(Ask("likelihood", ("d00",)))
        .key
        for options in ({}, {option: IMPLIED[option]}, {"compat": "llm-rankers"})
    }
    assert len(keys) == 3
