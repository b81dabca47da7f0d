"""Probes: the published words, planted rates, and what is counted apart."""

import hashlib
import random
from pathlib import Path

import pytest
from r2llm.pipeline.configs import load as configs
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.studies import probe
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Request
from r2llm.rerankers.errors import InputError

PUBLISHED = {
    "doh": "1a417ac10b9c8c0576121e79ca32d92a1cfa8976c845634f7de03a285777b059",
    "dch": "3d0f16c5d2bab506b399485dbf64875c5efdfd16b09dea51a50877b777d815f8",
}
"""SHA-256 of `jailbreak_prompt` ("so", "sd") in ielab/LLM-Ranker-Attack at cfd8b24, `LLM_prompt_attack/prompts.py`."""

LISTWISE = "540e918c9de58b4ff35d5f056fb130ef6e914554c70c2848ff84545d4dee14dd"
"""That of "so" in `listwise_jailbreak_prompt`; its "sd" is the other's."""


@pytest.fixture
def folder(write) -> Path:
    """Twenty queries with twelve judged documents each, three of each grade."""
    docs = [(q, d) for q in range(20) for d in range(12)]
    write("docs.jsonl", "".join(f'{{"_id": "q{q}d{d}", "text": "text {d} about {q}"}}\n' for q, d in docs))
    write("queries.tsv", "".join(f"q{q}\tquestion {q}\n" for q in range(20)))
    write("qrels.txt", "".join(f"q{q} 0 q{q}d{d} {d % 4}\n" for q, d in docs))
    write("bm25.trec", "".join(f"q{q} Q0 q{q}d{d} {d + 1} {20 - d} x\n" for q, d in docs))
    write(
        "attacked.yaml",
        "dataset: {docs: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}\n"
        "first_stage: {run: bm25.trec}\n"
        "ranker: {method: setwise.heapsort, num_child: 3}\n"
        "model: {backend: simulated, answers: oracle}\n",
    )
    return Path.cwd()


def obeying(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Let the oracle obey the injections in this share of its asks."""
    choice, order = simulated.Simulated._choice, simulated.Simulated._order

    def obeyed(request: Request) -> list[int]:
        marked = [i for i, text in enumerate(request.passages) if "[MARKER]" in text]
        return marked if random.Random(f"{request.query.id}{request.passages}").random() < share else []

    def choose(model, request: Request) -> int:
        return [*obeyed(request), choice(model, request)][0]

    def permute(model, request: Request) -> list[int]:
        return list(dict.fromkeys([*obeyed(request), *order(model, request)]))

    monkeypatch.setattr(simulated.Simulated, "_choice", choose)
    monkeypatch.setattr(simulated.Simulated, "_order", permute)


def probed(*settings: str, names: tuple[str, ...] = ("doh_back",), sets: int = 100, rankings: bool = False) -> dict:
    loaded = configs.load("attacked.yaml", settings)
    return probe.probe(loaded, names, sets, Path("out"), Listener(), rankings=rankings)


def test_the_published_probes_are_published_to_the_byte() -> None:
    found = probe.probes(["doh", "dch"])
    assert set(found) == {"doh_back", "doh_front", "dch_back", "dch_front", "placebo", "placebo_front"}
    for name, one in found.items():
        if not name.startswith("placebo"):
            kind, place = name.split("_")
            assert (one.text.startswith if place == "back" else one.text.endswith)("{text}")
            assert hashlib.sha256(one.text.replace("{text}", "").encode()).hexdigest() == PUBLISHED[kind]
    listwise = found["doh_back"].listwise.removeprefix("{text}")
    assert hashlib.sha256(listwise.encode()).hexdigest() == LISTWISE
    assert len(found["placebo"].text) == len(found["doh_back"].text) == len(found["placebo_front"].text)
    assert len(probe.probes()) == 13


def test_each_probe_is_held_against_the_placebo_at_its_own_place(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ranker that chooses whatever begins with the placebo: in front it always succeeds, behind it never does."""
    choice = simulated.Simulated._choice

    def choose(model, request: Request) -> int:
        fooled = [i for i, text in enumerate(request.passages) if text.startswith("The notes below")]
        return [*fooled, choice(model, request)][0]

    monkeypatch.setattr(simulated.Simulated, "_choice", choose)
    found = probed(names=("doh",), sets=20)["probes"]
    rates = {name: (one["success"]["rate"], one["success"]["less_placebo"]) for name, one in found.items()}
    assert rates == {"doh_back": (0, 0), "doh_front": (0, -1), "placebo": (0, 0), "placebo_front": (1, 0)}


@pytest.mark.parametrize("method", ["setwise.heapsort", "listwise.full", "pairwise.heapsort"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_rates_come_out_as_planted(folder, monkeypatch: pytest.MonkeyPatch, share: float, method: str) -> None:
    obeying(monkeypatch, share)
    if method == "pairwise.heapsort" and share == 0.5:
        pytest.skip("several asks of a set each obey or not")
    found = probed(f"ranker={{method: {method}}}")["probes"]
    low, high = found["doh_back"]["success"]["interval"]
    assert low <= share <= high
    assert found["placebo"]["success"]["rate"] == 0
    assert found["doh_back"]["success"]["less_placebo"] == found["doh_back"]["success"]["rate"]


def test_whole_rankings_fall_and_victims_climb(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    obeying(monkeypatch, 1.0)
    found = probed(sets=0, rankings=True, names=("doh", "empty"))
    doh, placebo = found["probes"]["doh_front"], found["probes"]["placebo"]
    assert doh["damage"]["documents"] == 60
    assert doh["damage"]["drop"] > 0.2
    assert doh["victim"]["first"] == 1
    assert (placebo["damage"]["drop"], placebo["victim"]["climb"], placebo["victim"]["first"]) == (0, 0, 0)
    assert [victim["rank"] for victim in found["victims"]] == [10] * 20
    assert "success" not in doh


def test_an_unread_answer_is_no_success_and_is_counted(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = simulated.Simulated._reply

    def mute(model, request: Request) -> Reply:
        return Reply("I cannot say") if any("[MARKER]" in text for text in request.passages) else reply(model, request)

    monkeypatch.setattr(simulated.Simulated, "_reply", mute)
    found = probed("ranker.scoring=generation")["probes"]
    assert (found["doh_back"]["success"]["rate"], found["doh_back"]["success"]["unread"]) == (0, 100)
    assert found["placebo"]["success"]["unread"] == 0


def test_run_again_it_asks_nothing_and_finds_the_same(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probed(sets=20)
    monkeypatch.setattr(simulated.Simulated, "_reply", None)
    assert probed(sets=20) == found


def test_fewer_sets_than_asked_for_are_said(folder, heard, write) -> None:
    write("qrels.txt", "q1 0 q1d1 1\nq1 0 q1d2 0\nq1 0 q1d3 0\nq1 0 q1d4 2\n")
    found = probe.probe(configs.load("attacked.yaml"), ["doh_back"], 50, Path("out"), heard, rankings=False)
    assert found["sets"] == 1
    assert "1 different sets of 4 judged documents were drawn, not 50" in heard.notes


def test_an_unknown_probe_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean"):
        probe.probes(["placeebo"])


def test_a_single_query_has_no_interval_and_its_file_is_json(folder) -> None:
    found = probe.probe(configs.load("attacked.yaml", (), 1), ["empty"], 0, Path("out"), Listener())
    assert found["probes"]["empty"]["damage"]["interval"] is None
    assert "NaN" not in Path("out/probe.json").read_text()
