"""Recorded answers: each used exactly once in a query's order, and ledgers that answer what they hold."""

import json
import shutil
from pathlib import Path

import pytest
from r2llm.rerankers.backends import replay, simulated, transformers
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ledger import Ledger

HEAPSORT = {"method": "setwise.heapsort", "k": 2, "num_child": 2, "scoring": "generation"}


def opened(path: Path):
    return replay.open(replay.Options(answers=str(path)), Setting())


def recorded(path: Path, *answers: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"query_id": query, "text": text}) + "\n" for query, text in answers))
    return path


def test_each_query_takes_its_answers_in_their_order(make_candidates, rank, tmp_path: Path) -> None:
    # Five documents: two asks build the heap, the next sifts what was the last; lines of two queries are mixed.
    path = recorded(
        tmp_path / "answers.jsonl", ("q1", "B"), ("q2", "A"), ("q2", "A"), ("q1", "Passage C"), ("q1", "a"), ("q2", "A")
    )
    for pooled in (True, False):
        backend = opened(path)
        results = rank(HEAPSORT, backend, [make_candidates(5, query_id=q) for q in ("q1", "q2")], pooled=pooled)
        rankings = {cost.query_id: ranking.docs for ranking, cost in results}
        # q1: of 1, 3, 4 the second, 3; of 0, 3, 2 the third, 2; then 4, 3, 0: the first, 4.
        # q2: the first each time, and so what was the last and came to the root is second.
        assert rankings == {"q1": ("d02", "d04", "d00", "d01", "d03"), "q2": ("d00", "d04", "d01", "d02", "d03")}
        assert all((cost.asks, cost.calls, cost.cached) == (3, 3, 0) for _, cost in results)
        assert all(cost.prompt_tokens is None for _, cost in results)
        backend.close()


def test_equal_asks_take_an_answer_each_and_the_ledger_is_left_out(make_candidates, rank, tmp_path: Path) -> None:
    path = recorded(tmp_path / "answers.jsonl", ("q1", "No"), ("q1", "Yes"), ("q1", "No"))
    ledger = Ledger(None)
    options = {"method": "pointwise.yes_no", "scoring": "generation"}
    [(ranking, cost)] = rank(options, opened(path), [make_candidates(["same"] * 3)], ledger=ledger)
    assert ranking.docs == ("d01", "d00", "d02")
    assert (cost.asks, cost.calls, cost.cached, len(ledger)) == (3, 3, 0, 0)
    ledger.close()


def test_too_few_answers_name_the_query(make_candidates, rank, tmp_path: Path) -> None:
    path = recorded(tmp_path / "answers.jsonl", ("q1", "A"), ("q1", "A"), ("q2", "A"))
    with pytest.raises(InputError) as raised:
        rank(HEAPSORT, opened(path), [make_candidates(5)])
    assert str(raised.value) == (
        f"{path}: query q1 asks for more answers than are recorded; "
        "replay with the method and settings of the recording"
    )
    with pytest.raises(InputError, match="query q7 asks for more answers than are recorded"):
        rank(HEAPSORT, opened(path), [make_candidates(5, query_id="q7")])


def test_answers_that_are_left_are_an_error_at_the_end(make_candidates, rank, tmp_path: Path) -> None:
    path = recorded(tmp_path / "answers.jsonl", *[("q1", "A")] * 3, *[("q9", "A")] * 2, ("q8", "A"))
    backend = opened(path)
    rank(HEAPSORT, backend, [make_candidates(5)])
    with pytest.raises(InputError) as raised:
        backend.close()
    assert str(raised.value) == (
        f"{path}: 3 recorded answers of 2 queries were not used, 2 of them of query q9; "
        "replay with the method, settings and queries of the recording"
    )


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "",
        "null",
        "[1, 2]",
        '"query_id"',
        '{"query_id": "q1"}',
        '{"text": "A"}',
        '{"query_id": "q1", "text": null}',
        '{"query_id": "q1", "text": ["A"]}',
        '{"query_id": "q1", "text": "A"} x',
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = recorded(tmp_path / "answers.jsonl", ("q1", "A"), ("q1", "B"))
    path.write_text(path.read_text() + line + "\n" + '{"query_id": "q1", "text": "C"}\n')
    with pytest.raises(InputError) as raised:
        opened(path)
    assert str(raised.value).startswith(f'{path}, line 3: expected {{"query_id": …, "text": …}}, found ')
    assert "\n" not in str(raised.value)


def test_line_ends_and_unicode(make_candidates, rank, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    # A line separator inside a text is no end of line.
    path.write_bytes('{"query_id": 7, "text": "\u2028 Yes"}\r\n{"query_id": "7", "text": "n\\u006f"}'.encode())
    backend = opened(path)
    options = {"method": "pointwise.yes_no", "scoring": "generation"}
    [(ranking, cost)] = rank(options, backend, [make_candidates(2, query_id="7")])
    assert ranking.docs == ("d00", "d01")
    assert cost.unparsed == 0
    backend.close()


def test_the_identity_follows_the_recorded_answers(tmp_path: Path) -> None:
    one = opened(recorded(tmp_path / "one.jsonl", ("q1", "A")))
    same = opened(recorded(tmp_path / "same.jsonl", ("q1", "A")))
    other = opened(recorded(tmp_path / "other.jsonl", ("q1", "B")))
    assert one.identity == same.identity != other.identity


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.sqlite"):
        with pytest.raises(InputError, match=rf"^model\.answers: no file .*{name}$"):
            opened(tmp_path / name)
    (tmp_path / "bad.sqlite").write_text("no database" * 100)
    with pytest.raises(InputError, match="file is not a database"):
        opened(tmp_path / "bad.sqlite")


@pytest.mark.parametrize("options", [HEAPSORT, {"method": "pointwise.yes_no"}])
@pytest.mark.parametrize("model", ["tiny_t5", "tiny_llama"])
def test_a_ledger_repeats_the_run_that_wrote_it_without_the_model(
    request, make_candidates, rank, tmp_path: Path, model: str, options
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(request.getfixturevalue(model), folder)
    path = tmp_path / "ledger.sqlite"
    queries = [make_candidates(6, query_id=q, query=f"moons of {q}") for q in ("q1", "q2")]
    ledger = Ledger(path)
    backend = transformers.open(transformers.Options(name=str(folder), device="cpu"), Setting())
    first = rank(options, backend, queries, ledger=ledger)
    ledger.close()
    shutil.rmtree(folder)

    backend = opened(path)
    assert backend.architecture == {"tiny_t5": "encoder_decoder", "tiny_llama": "decoder_only"}[model]
    again = rank(options, backend, queries)
    assert [ranking for ranking, _ in again] == [ranking for ranking, _ in first]
    for (_, old), (_, new) in zip(first, again, strict=True):
        assert (new.asks, new.prompt_tokens, new.completion_tokens, new.unparsed, new.comparisons) == (
            old.asks,
            old.prompt_tokens,
            old.completion_tokens,
            old.unparsed,
            old.comparisons,
        )
    with pytest.raises(InputError) as raised:
        rank(options, backend, [make_candidates(6, query_id="q3", query="another question")])
    backend.close()
    assert str(raised.value).startswith(f"{path}: no answer for query q3 about d0")
    assert str(raised.value).endswith("; replay with the dataset, ranker and seed of the recording")


def test_a_simulated_run_is_replayed_too(make_candidates, rank, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    first = rank(
        HEAPSORT, simulated.open(simulated.Options(answers="rel"), Setting(seed=3)), [make_candidates(9)], ledger=ledger
    )
    ledger.close()
    backend = opened(path)
    assert rank(HEAPSORT, backend, [make_candidates(9)])[0][0] == first[0][0]
    with pytest.raises(InputError, match="no answer for query q2"):
        rank(HEAPSORT, backend, [make_candidates(9, query_id="q2")])
    backend.close()


def test_a_ledger_of_two_models_or_none_cannot_be_replayed(make_candidates, rank, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    with pytest.raises(InputError, match="holds answers of 0 models; a replay needs those of one"):
        opened(path)
    for seed in (1, 2):
        rank(
            HEAPSORT,
            simulated.open(simulated.Options(answers="hash"), Setting(seed)),
            [make_candidates(4)],
            ledger=ledger,
        )
    ledger.close()
    with pytest.raises(InputError, match="holds answers of 2 models; a replay needs those of one"):
        opened(path)
