"""Answers from a rule: what each rule says, in both forms of scoring, and that chance is seeded."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Ask, Candidates, choose, score

GRADES = {"q1": {"d00": 0, "d01": 2, "d02": 3, "d03": 3}}


def number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def answers(
    candidates: Candidates,
    asks: list[Ask],
    rule: str,
    *,
    scoring: str = "generation",
    seed: int = 0,
    grades=None,
    noise: float = 0.1,
    method: str = "setwise.heapsort",
) -> list[Reply]:
    backend = simulated.open(simulated.Options(answers=rule, noise=noise), Setting(seed, grades))
    requests = Requests(Ranker.create({"method": method, "scoring": scoring}), backend, candidates)
    backend.submit([requests.request(ask) for ask in asks])
    collected = backend.collect()
    assert [request.ask for request, _ in collected] == asks
    assert backend.collect() == []
    backend.close()
    return [reply for _, reply in collected]


def test_an_oracle_chooses_the_highest_grade_and_of_equal_ones_the_first_shown(make_candidates) -> None:
    asks = [
        choose(["d00", "d01", "d02"]),
        choose(["d02", "d03"]),
        choose(["d03", "d02"]),
        choose(["d04", "d00"]),
        choose(["d04", "d01"]),
    ]
    assert answers(make_candidates(5), asks, "oracle", grades=GRADES) == [Reply(text=t) for t in "CAAAB"]
    [reply] = answers(make_candidates(5), asks[:1], "oracle", grades=GRADES, scoring="likelihood")
    assert reply == Reply(scores=(-1000.0, -1000.0, 0.0))


def test_an_oracle_knows_the_grades_of_the_query_alone(make_candidates) -> None:
    other = make_candidates(5, query_id="q2")
    assert answers(other, [choose(["d00", "d02"])], "oracle", grades=GRADES) == [Reply(text="A")]


def test_an_oracles_score_rises_with_the_grade(make_candidates) -> None:
    asks = [score(f"d0{i}") for i in range(5)]
    likely = answers(make_candidates(5), asks, "oracle", grades=GRADES, scoring="likelihood", method="pointwise.yes_no")
    shares = [math.exp(reply.scores[0]) for reply in likely]
    assert shares == pytest.approx([1 / (1 + math.exp(0.5 - grade)) for grade in (0, 2, 3, 3, 0)])
    assert all(math.exp(reply.scores[0]) + math.exp(reply.scores[1]) == pytest.approx(1) for reply in likely)
    said = answers(make_candidates(5), asks, "oracle", grades=GRADES, method="pointwise.yes_no")
    assert [reply.text for reply in said] == ["No", "Yes", "Yes", "Yes", "No"]


@given(seed=st.integers(0, 1000), picked=st.permutations(range(9)), size=st.integers(2, 9))
def test_hash_and_rel_follow_their_rules(make_candidates, seed: int, picked: list[int], size: int) -> None:
    docs = [f"d{i:02d}" for i in picked[:size]]
    [reply] = answers(make_candidates(9), [choose(docs)], "hash", seed=seed)
    assert reply == Reply(text="ABCDEFGHI"[number(f"{seed}|{'|'.join(docs)}") % size])
    [reply] = answers(make_candidates(9), [choose(docs)], "rel", seed=seed)
    assert reply == Reply(text="ABCDEFGHI"[max(range(size), key=lambda i: number(f"{seed}|{docs[i]}"))])


def test_rel_ranks_the_same_pointwise_as_setwise(make_candidates, rank) -> None:
    backend = simulated.open(simulated.Options(answers="rel"), Setting(seed=4))
    right = tuple(sorted(make_candidates(9).ids, key=lambda doc: -number(f"4|{doc}")))
    for options in ({"method": "pointwise.yes_no"}, {"method": "setwise.heapsort", "k": 9}):
        [(ranking, _)] = rank(options, backend, [make_candidates(9)])
        assert ranking.docs == right


def test_noise_is_the_share_of_wrong_answers(make_candidates) -> None:
    asks = [choose([f"d{i:02d}", f"d{j:02d}", f"d{k:02d}"]) for i in range(20) for j in range(20, 30) for k in (30, 31)]
    candidates = make_candidates(32)
    right = answers(candidates, asks, "oracle", grades={})
    assert answers(candidates, asks, "noisy", grades={}, noise=0.0) == right
    assert all(a != b for a, b in zip(right, answers(candidates, asks, "noisy", grades={}, noise=1.0), strict=True))
    wrong = [reply.text for reply in answers(candidates, asks, "noisy", grades={}, noise=0.25) if reply.text != "A"]
    assert 70 <= len(wrong) <= 130  # of 400
    assert {"B", "C"} == set(wrong)
    assert min(wrong.count("B"), wrong.count("C")) > len(wrong) / 3


@given(seed=st.integers(0, 50))
def test_the_same_ask_goes_wrong_the_same_way_whatever_was_asked_before(make_candidates, seed: int) -> None:
    asks = [choose([f"d{i:02d}", f"d{i + 1:02d}"]) for i in range(20)]
    noisy = {"grades": GRADES, "noise": 0.5, "seed": seed}
    forward = answers(make_candidates(21), asks, "noisy", **noisy)
    assert answers(make_candidates(21), asks[::-1], "noisy", **noisy) == forward[::-1]
    assert answers(make_candidates(21), asks, "noisy", **noisy | {"seed": seed + 1}) != forward


def test_an_oracle_without_judgements_is_refused(make_candidates) -> None:
    for rule in ("oracle", "noisy"):
        with pytest.raises(InputError, match=rf"model\.answers: {rule} answers from relevance judgements, but"):
            simulated.open(simulated.Options(answers=rule), Setting())
    assert simulated.open(simulated.Options(answers="hash"), Setting()).identity["answers"] == "hash"


def test_the_identity_holds_what_the_rule_depends_on() -> None:
    def identity(seed: int = 0, grades=GRADES, **options):
        return simulated.open(simulated.Options(**options), Setting(seed, grades)).identity

    assert identity(seed=1) == identity(seed=2)  # an oracle has no chance in it
    assert identity() != identity(grades={"q1": {"d00": 1}})
    assert identity(answers="hash", seed=1) != identity(answers="hash", seed=2)
    assert identity(answers="hash", seed=1) == identity(answers="hash", seed=1, grades=None)
    assert identity(answers="noisy", noise=0.1) != identity(answers="noisy", noise=0.2)
    assert identity(answers="rel", noise=0.1) == identity(answers="rel", noise=0.2)
    turned = {"q2": {}, "q1": dict(reversed(GRADES["q1"].items()))}
    assert identity(grades=turned) == identity(grades=turned | {})


def test_by_prompt_other_words_meet_other_errors(make_candidates) -> None:
    asks = [choose([f"d0{i}", f"d0{j}"]) for i in range(5) for j in range(5) if i != j]

    def chosen(prompt: str, *, by_prompt: bool) -> list[Reply]:
        options = simulated.Options(answers="noisy", noise=0.5, by_prompt=by_prompt)
        backend = simulated.open(options, Setting(0, GRADES))
        ranker = Ranker.create({"method": "setwise.heapsort", "prompt": prompt})
        requests = Requests(ranker, backend, make_candidates(5))
        backend.submit([requests.request(ask) for ask in asks])
        return [reply for _, reply in backend.collect()]

    prompts = ("study_setwise", "study_setwise/tone=please")
    one, other = (chosen(prompt, by_prompt=True) for prompt in prompts)
    assert one != other
    assert one == chosen(prompts[0], by_prompt=True)
    one, other = (chosen(prompt, by_prompt=False) for prompt in prompts)
    assert one == other
