"""The summary that GCCP compares documents with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers import catalog
from r2llm.rerankers.notes import spectral_summary as module
from r2llm.rerankers.notes.spectral_summary import gather, spectral_summary

APPLES = ["Red apples taste sweet.", "Green apples taste sour.", "Baked apples taste good.", "Cold apples taste mild."]
TRAINS = ["Fast trains leave Paris.", "Slow trains leave London.", "Night trains leave Berlin."]


def test_the_note_is_found_by_its_name() -> None:
    assert catalog.note("spectral_summary") is spectral_summary


@pytest.mark.parametrize("passages", [[], [""], ["", "  \n"], ["Two words."]])
def test_no_sentence_makes_an_empty_summary(passages: list[str]) -> None:
    assert spectral_summary("apples", passages) == ""


def test_ten_sentences_or_fewer_are_all_in_it() -> None:
    assert spectral_summary("", [APPLES[0]]) == APPLES[0]
    passages = [" ".join(APPLES), " ".join(TRAINS), " ".join(APPLES)]
    assert spectral_summary("", passages) == " ".join(APPLES + TRAINS)


def test_equal_sentences_are_one() -> None:
    assert spectral_summary("", [" ".join(APPLES[:1] * 30)] * 30) == APPLES[0]


@pytest.mark.parametrize("order", [APPLES + TRAINS, TRAINS + APPLES, [TRAINS[0], *APPLES, *TRAINS[1:]]])
def test_of_two_themes_the_one_with_more_sentences_is_taken_in_order(order: list[str]) -> None:
    # No word of one theme is in the other: the second eigenvector is positive on one and negative on the other.
    assert spectral_summary("", order, sentences=5) == " ".join(APPLES)
    assert spectral_summary("", order, sentences=3) == " ".join(APPLES[:3])


def test_of_sentences_that_share_no_word_the_last_is_apart_and_the_rest_is_the_larger_part() -> None:
    alone = [f"Word{i} and of other{i}." for i in range(11)]
    assert spectral_summary("", alone) == " ".join(alone[:10])


def test_stop_words_have_no_links_and_the_first_sentences_are_taken() -> None:
    stops = [f"{a} and {b}." for a in ("He", "She", "It", "We") for b in ("me", "him", "her")]
    assert spectral_summary("", [" ".join(stops[i : i + 3]) for i in range(0, 12, 3)]) == " ".join(stops[:10])


def test_the_fiedler_vector_of_a_chain_of_three() -> None:
    # Degrees 1.5, 2, 1.5. By symmetry the vector is (1, 0, -1) / √2, closest to sentence 2: (-½, 0, ½).
    chain = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]])
    assert module._fiedler(chain).tolist() == [-0.5, 0.0, 0.5]


def test_the_fiedler_vector_of_parts_is_positive_where_the_fewest_links_are() -> None:
    # Sentences 0 and 1, each alone, and 2 to 4 all alike: degrees 1, 1, 3, 3, 3, of 11 together. For sentence 1, of the
    # vectors that are constant times √degree on each part, less its share 1/√11 in the first one.
    links = np.zeros((5, 5))
    links[0, 0] = links[1, 1] = 1
    links[2:, 2:] = 1
    assert module._fiedler(links) == pytest.approx([-1 / 11, 10 / 11, *[-(3**0.5) / 11] * 3], abs=1e-8)


def test_magnitude_takes_the_extreme_sentences_or_the_middling_ones() -> None:
    # Two parts of 4 and 3: more are negative when the fewest links are among the 3, and then the smallest are taken.
    found = gather(APPLES + TRAINS)
    links = module._links(found, 0.2)
    assert (links[:4, 4:] == 0).all()
    fiedler = module._fiedler(links)
    assert ((fiedler > 0) == ([False] * 4 + [True] * 3)).all()
    assert np.abs(fiedler[:4]).max() < np.abs(fiedler[4:]).min()
    assert spectral_summary("", found, sentences=4, choice="magnitude") == " ".join(APPLES)


def test_the_threshold_links_from_that_cosine_on() -> None:
    links = module._links(APPLES, 0.2)
    assert (links > 0).all()
    assert links.diagonal() == pytest.approx([1] * 4)
    assert (module._links(APPLES, 0.99) == np.eye(4)).sum() >= 12
    assert module._links(["of the", "to be"], 0.2).tolist() == [[0, 0], [0, 0]]


WORDS = st.sampled_from(
    ["red", "of", "the", "Mars", "Phobos.", "is", "it…", "火星", "\ud800", "é.", "2", "(yes.)", "."]
)
PASSAGES = st.lists(st.text(st.characters()) | st.lists(WORDS, max_size=40).map(" ".join), max_size=15)
OPTIONS = st.tuples(st.integers(1, 12), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from(["cluster", "magnitude"]))


@given(PASSAGES, OPTIONS)
def test_any_texts_have_a_summary(passages, options) -> None:
    summary = spectral_summary("any", passages, *options)
    assert bool(summary) == bool(gather(passages))
    assert spectral_summary("other", passages, *options) == summary


@given(st.lists(st.lists(WORDS.filter(str.isalnum), min_size=1, max_size=9), max_size=30), OPTIONS)
def test_at_most_so_many_sentences_are_taken_in_their_order(bodies, options) -> None:
    sentences = [f"S{i} is {' '.join(body)}." for i, body in enumerate(bodies)]
    taken = [int(word[1:]) for word in spectral_summary("", sentences, *options).split() if word[0] == "S"]
    assert taken == sorted(set(taken))
    assert len(taken) <= options[0]
    if len(sentences) <= options[0]:
        assert len(taken) == len(sentences)
