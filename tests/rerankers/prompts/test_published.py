"""Prompts of published rerankers, word for word those of their authors' code."""

import hashlib
import json

import pytest
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.types import Ask

QUERY = "what is a flea"
PASSAGES = ["The flea  is an insect.\nIt [1] jumps.", "Cats have fleas. " * 40, "A third one"]

DIGESTS = {
    "rearank": "7abcf041b6813673",  # lezhang7/Rearank at abb4bd0, create_permutation_instruction_rearank
    "rank_k": "a4b1b08d5210e096",  # hltcoe/rank-k at ecdf232, rank_k_prompt and combine_passages
    "dear_listwise": "80699ca82c04d4fd",  # DataScienceUIBK/DeAR-Reranking at c31c739, build_messages
    "rank_r1": "cd7ce552944a5ebe",  # ielab/llm-rankers at b36517b, R1SetwiseLlmRanker.compare of run_setwise.py
    "rank_r1/prefix=blank": "5861045481e65ac4",  # there, RankR1SetwiseLlmRanker.compare of the library
    "rank_r1_v2": "3faf842880637c7b",
    "setwise_sft": "1e7e4f07b992379b",  # there, create_dataset_sft.py
    "reasonrank": "583ca3e68ae34ef8",  # 8421BCD/ReasonRank at 06721fd, create_prompt
    "retro_star": "21d36607249a3264",  # VectorSpaceLab/agentic-search at b2f2e40, compute_score
    "retro_star/query_type=biology/doc_type=passage/relevant=concepts": "43ed30c3e9260bc1",
    "retro_star/query_type=leetcode/doc_type=coding/relevant=algorithms": "34ee2fd3d503c018",
    "retro_star/query_type=pony/doc_type=pony/relevant=syntax": "e01ee7b7503fd8a4",
    "retro_star/query_type=math/doc_type=math/relevant=theorems": "a891cec369244fb0",
    "retro_star/query_type=math/doc_type=theorem/relevant=theorem": "70620b076471cb56",
    "lighton_listwise": "c6ec2ec867d0fd60",  # embeddings-benchmark/mteb at 27f1337, _build_text_prompt
}
"""The first half of SHA-256's hexadecimal digits over the conversation that the authors' code makes of the above."""


@pytest.mark.parametrize("name", DIGESTS)
def test_the_conversation_is_the_authors(name: str) -> None:
    prompt = prompts.load(name)
    passages = [prompts.mended(text) for text in PASSAGES] if prompt.fix_text else PASSAGES
    shown = 1 if prompt.asks == ("score",) else 3
    turns = prompt.render(Ask(prompt.asks[0], ("a", "b", "c")[:shown]), QUERY, passages[:shown])
    content = json.dumps([[turn.role, turn.content] for turn in turns])
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == DIGESTS[name]


def test_a_group_to_be_rated_is_the_authors() -> None:
    """AQ-MedAI/Diver at 95b111b, prepare_groups_one_epoch."""
    passages = ["The flea is an insect.\nIt [1] jumps.", "Cats have fleas. " * 300, "A third one"]
    turns = prompts.load("grouprank").render(Ask("rate", ("a", "b", "c")), QUERY, passages)
    content = json.dumps([[turn.role, turn.content] for turn in turns])
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "27109daf013a2086"


def test_a_passage_about_which_rank1_thinks() -> None:
    """orionw/rank1 at 30585c2, return_prompt; its closing as in _fix_incomplete_responses."""
    prompt = prompts.load("rank1")
    [turn] = prompt.render(Ask("score", ("a",)), QUERY, ["Cats have fleas."])
    assert turn.content == (
        "Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'.\n"
        "Query: what is a flea\nPassage: Cats have fleas.\n<think>"
    )
    assert prompt.answer.closing.format(thought="So.") == "\nSo.\n</think>"
    assert prompt.answer.stop == ("</think> true", "</think> false")


def test_a_frame_is_written_out_where_the_folder_has_none() -> None:
    [turn] = prompts.load("lighton_listwise").render(
        Ask("permute", ("a", "b")), "q", ["one", "two"], form="encoder_decoder"
    )
    assert turn.content == (
        "<|im_start|>user\nQuery: q\n\nRank these passages from most to least relevant:\n[1]: one\n[2]: two\n\nRanking:"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    empty = prompts.load("lighton_listwise/thought=empty").answer
    assert (empty.prefix.decoder_only, empty.max_new_tokens.decoder_only) == ("<think>\n\n</think>\n\n", 30)


def test_passages_are_cut_by_words_and_then_by_characters() -> None:
    turns = prompts.load("rearank").render(Ask("permute", ("a", "b")), "q", ["a  b\n" * 300, "short"])
    assert [turn.content for turn in turns[3::2]][:2] == [f"[1] {('a b ' * 100)}", "[2] short"]


def test_texts_are_mended_and_stripped_once() -> None:
    assert (
        prompts.mended(" between 70\u00c2\u00b0 and the host\u00e2\u20ac\u2122s ") == "between 70\u00b0 and the host's"
    )
    assert prompts.load("rank_zephyr").fix_text


def test_the_two_endings_of_rank_zephyrs_words_are_told_apart() -> None:
    """castorini/rank_llm's against those of gangiswag/llm-reranker and of the recorded run of RankVicuna."""
    endings = {
        "rank_zephyr": "e.g., [2] > [1], Answer concisely and directly and only respond with the ranking results,",
        "first": "e.g., [B] > [A], Answer concisely and directly and only respond with the ranking results,",
        "first_original": "e.g., [B] > [A], Only respond with the ranking results,",
        "rank_vicuna": "e.g., [4] > [2], Only respond with the ranking results,",
    }
    for name, ending in endings.items():
        turn = prompts.load(name).render(Ask("permute", ("a", "b")), "q", ["one", "two"])[-1]
        assert turn.content.rstrip().endswith(f"{ending} do not say any word or explain.")
