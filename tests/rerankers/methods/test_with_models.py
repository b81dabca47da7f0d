"""Every ranking method with real models, tiny ones of both architectures, in both scorings where it has both."""

from pathlib import Path

import pytest
from r2llm.rerankers import catalog
from r2llm.rerankers.api import open_model
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ranker import Ranker

TEXTS = ["the red moon", "the red planet", "the red passage", "the old moon", "the old planet"]
SMALL = {"k": 3, "window": 4, "stride": 2, "budget": 3, "m": 3, "r": 1, "repeats": 2, "group_size": 4, "num_child": 2}
"""Settings that make every method work on five documents, and answers short."""

REFUSED = {(f"listwise.{method}", "likelihood"): "numbers its passages" for method in ("full", "insertrank", "lrl")}
REFUSED |= {
    (f"pointwise.{method}", "generation"): "needs scoring: likelihood" for method in ("bi_encoder", "cross_encoder")
}
"""What is said where a method works with one scoring alone."""


def options(method: str, scoring: str) -> dict[str, object]:
    fields = catalog.method(method).params.model_fields
    own = {name: value for name, value in SMALL.items() if name in fields}
    return {"method": method, "scoring": scoring, "max_new_tokens": 4} | own


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest):
    """Open the model of a fixture, or the cross-encoder for the method that asks one; a copy is opened apart."""
    kept = {}

    def open_one(kind: str, method: str, *, copy: bool = False):
        name = "tiny_bert" if method == "pointwise.cross_encoder" else kind
        if (name, copy) not in kept:
            folder: Path = request.getfixturevalue(name)
            kept[name, copy] = open_model({"backend": "transformers", "name": str(folder)})
        return kept[name, copy]

    return open_one


@pytest.mark.parametrize(
    ("scoring", "kind"),
    [
        ("likelihood", "tiny_t5"),
        ("generation", "tiny_llama"),
        pytest.param("likelihood", "tiny_llama", marks=pytest.mark.slow),
        pytest.param("generation", "tiny_t5", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("method", catalog.names("method"))
def test_a_model_answers_every_method(method: str, scoring: str, kind: str, opened, make_candidates, rank) -> None:
    candidates = make_candidates(TEXTS)
    chosen = options(method, scoring)
    if (method, scoring) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[method, scoring]):
            Ranker.create({"method": method, "scoring": scoring})
        return
    [(ranking, cost)] = rank(chosen, opened(kind, method), [candidates])
    assert sorted(ranking.docs) == sorted(candidates.ids)
    assert cost.asks == cost.calls + cost.cached > 0
    assert cost.prompt_tokens
    assert cost.completion_tokens or scoring == "likelihood" or method == "pointwise.qlm"


@pytest.mark.parametrize("method", catalog.names("method"))
def test_a_model_opened_again_gives_the_same(method: str, opened, make_candidates, rank) -> None:
    chosen = options(method, catalog.method(method).params.scoring)
    rankings = []
    for copy in (False, True):
        [(ranking, _)] = rank(chosen, opened("tiny_t5", method, copy=copy), [make_candidates(TEXTS)])
        rankings.append(ranking)
    assert rankings[0] == rankings[1]
