"""Servers that fail: every ask is answered once all the same, or the run ends with what is to be done about it."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from r2llm.rerankers.backends import openai
from r2llm.rerankers.backends._server import client as server_client
from r2llm.rerankers.backends._server import limits as server_limits
from r2llm.rerankers.backends._server.client import Client
from r2llm.rerankers.backends._server.limits import Limits, Spending, spending
from r2llm.rerankers.backends._server.refusals import AttemptError
from r2llm.rerankers.backends._server.spec import ServerSpec
from r2llm.rerankers.backends.base import Backend, Setting
from r2llm.rerankers.errors import BackendError
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.types import Candidates, Cost, Ranking

POINTWISE = {"method": "pointwise.yes_no"}
Ranked = list[tuple[Ranking, Cost]]


def opened(url: str | Sequence[str], **more: Any) -> Backend:
    address = url if isinstance(url, str) else list(url)
    return openai.open(
        openai.Options(**({"name": "stub", "base_url": address, "max_concurrency": 64} | more)), Setting()
    )


@pytest.fixture(scope="module")
def queries(make_candidates: Callable[..., Candidates]) -> list[Candidates]:
    """Twenty queries of ten candidates."""
    return [make_candidates(10, f"q{i}", f"query number {i}") for i in range(20)]


def orders(ranked: Ranked) -> dict[str, tuple[str, ...]]:
    return {cost.query_id: ranking.docs for ranking, cost in ranked}


@pytest.fixture(scope="module")
def fault_free(
    shared_stub: str, queries: list[Candidates], rank: Callable[..., Ranked]
) -> Callable[..., dict[str, tuple[str, ...]]]:
    """The rankings without faults, by a method."""

    @cache
    def run(method: str) -> dict[str, tuple[str, ...]]:
        backend = opened(shared_stub)
        found = orders(rank({"method": method}, backend, queries))
        backend.close()
        return found

    return run


def failing(backend: Backend, rank: Callable[..., Ranked], queries: list[Candidates], ledger: Ledger) -> str:
    """What the run fails with, which no secret and no traceback of a library is in."""
    with pytest.raises(BackendError) as raised:
        rank(POINTWISE, backend, queries, ledger=ledger)
    backend.close()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("method", ["pointwise.yes_no", "pointwise.cross_encoder"])
def test_with_one_request_in_five_failing_each_ask_is_answered_once_and_as_without(
    shared_stub: str,
    serve: Callable[..., Any],
    queries: list[Candidates],
    rank: Callable[..., Ranked],
    fault_free: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.setattr(server_client, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(server_limits, "FIRST_WAIT", 0.05)
    proxy = serve("fault_proxy.py", "--target", shared_stub, "--rate", "0.2", "--seed", "3")
    ledger, backend = Ledger(None), opened(proxy.url)
    found = rank({"method": method}, backend, queries, ledger=ledger)
    backend.close()
    assert orders(found) == fault_free(method)
    assert len(ledger) == sum(cost.calls for _, cost in found) == 200
    ledger.close()
    with urllib.request.urlopen(proxy.url.replace("/v1", "/faults")) as reply:
        assert sum(count for fault, count in json.load(reply).items() if fault != "none") >= 5


@pytest.mark.parametrize("without", ["", "ids"])
def test_a_reply_that_comes_twice_is_not_taken_for_the_next_one(
    serve: Callable[..., Any],
    queries: list[Candidates],
    rank: Callable[..., Ranked],
    fault_free: Callable[..., Any],
    without: str,
) -> None:
    stub = serve("stub_server.py", "--without", without)
    proxy = serve("fault_proxy.py", "--target", stub.url, "--faults", "duplicate", "--rate", "0.2")
    backend = opened(proxy.url, max_concurrency=16)
    assert orders(rank(POINTWISE, backend, queries[:10])) == {
        query: docs for query, docs in fault_free("pointwise.yes_no").items() if query in {f"q{i}" for i in range(10)}
    }
    backend.close()


def test_it_answers_beside_a_loop_that_runs_as_a_notebooks_does(
    serve: Callable[..., Any], queries: list[Candidates], rank: Callable[..., Ranked], fault_free: Callable[..., Any]
) -> None:
    backend = opened(serve("stub_server.py").url)

    async def cell() -> dict[str, Any]:
        try:
            return orders(rank(POINTWISE, backend, queries[:2]))
        finally:
            backend.close()

    assert asyncio.run(cell()).items() <= fault_free("pointwise.yes_no").items()


def test_a_server_that_is_not_there(queries: list[Candidates], rank: Callable[..., Ranked]) -> None:
    ledger = Ledger(None)
    said = failing(opened("http://127.0.0.1:9/v1", retries=1), rank, queries, ledger)
    assert said.startswith("model.base_url: no answer from http://127.0.0.1:9/v1 after 2 attempts")
    ledger.close()


def test_a_server_that_never_answers(
    shared_stub: str, serve: Callable[..., Any], queries: list[Candidates], rank: Callable[..., Ranked]
) -> None:
    proxy = serve("fault_proxy.py", "--target", shared_stub, "--faults", "hang", "--rate", "1")
    ledger, started = Ledger(None), time.monotonic()
    said = failing(opened(proxy.url, timeout=0.2, retries=1), rank, queries, ledger)
    assert "no reply within 0.2 s" in said
    assert "model.timeout" in said
    assert time.monotonic() - started < 10
    ledger.close()


def test_a_wrong_key_is_told_nowhere(
    serve: Callable[..., Any],
    queries: list[Candidates],
    rank: Callable[..., Ranked],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("STUB_KEY", "sk-right-one")
    stub = serve("stub_server.py", "--key-env", "STUB_KEY")
    ledger = Ledger(None)
    monkeypatch.setenv("MY_KEY", "sk-wrong-one")
    said = failing(opened(stub.url, api_key_env="MY_KEY"), rank, queries, ledger)
    assert "MY_KEY was refused" in said
    monkeypatch.delenv("MY_KEY")
    said += failing(opened(stub.url, api_key_env="MY_KEY"), rank, queries, ledger)
    assert "MY_KEY is not set" in said
    backend = opened(stub.url, api_key_env="STUB_KEY")
    rank(POINTWISE, backend, queries[:1], ledger=ledger)
    assert len(ledger) == 10
    told = said + caplog.text + "".join(capfd.readouterr()) + "".join(ledger.lines())
    told += json.dumps([backend.details, backend.identity])
    backend.close()
    ledger.close()
    assert "wrong" not in told.replace("wrong key", "")
    assert "sk-" not in told


@pytest.mark.parametrize(
    ("usage", "spent"), [({"prompt_tokens": 30, "completion_tokens": 0}, spending(1, 30)), ({}, spending(1, 100, 10))]
)
def test_a_declined_prompt_counts_in_a_budget(usage: dict[str, int], spent: Spending) -> None:
    reply = {"choices": [{"index": 0, "finish_reason": "content_filter"}], "usage": usage}

    async def asked(client: Client) -> None:
        try:
            await client.send("/chat/completions", {}, lambda reply: reply, spending(1, 100, 10))
        finally:
            await client.close()

    client = Client(ServerSpec(openai.Options(name="stub", base_url="http://localhost:1/v1"), price=None, seed=0))
    client._body = lambda *_: asyncio.sleep(0, reply)  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(AttemptError) as error:
        asyncio.run(asked(client))
    assert error.value.kind == "declined"
    assert client.limiter.spent == spent
    assert client._answers == 1  # the provider works: it is no failure of the server


@pytest.mark.parametrize(("limits", "most"), [({"calls": 57}, 57), ({"tokens": 3_000}, 3_000), ({"usd": 0.003}, 3_000)])
def test_a_budget_is_not_exceeded_and_a_larger_one_goes_on(
    serve: Callable[..., Any],
    queries: list[Candidates],
    rank: Callable[..., Ranked],
    fault_free: Callable[..., Any],
    limits: dict[str, Any],
    most: int,
) -> None:
    stub = serve("stub_server.py")
    ledger, [limit] = Ledger(None), limits
    prices = {"prompt": 1.0, "completion": 1.0}
    backend = opened(stub.url, budget=Limits(**limits), prices=prices, max_concurrency=8)
    said = failing(backend, rank, queries, ledger)
    spent = backend.details["spent"]
    used = spent["calls"] if limit == "calls" else spent["prompt_tokens"] + spent["completion_tokens"]  # type: ignore[index]
    assert 0.7 * most <= used <= most
    assert said.startswith(f"model.budget.{limit}: ")
    assert f"set a larger model.budget.{limit}" in said
    assert len(ledger) == spent["calls"]  # type: ignore[index]
    larger = opened(stub.url, budget=Limits(calls=200 - len(ledger)))
    assert orders(rank(POINTWISE, larger, queries, ledger=ledger)) == fault_free("pointwise.yes_no")
    larger.close()
    ledger.close()


def test_a_server_that_is_killed_ends_the_run_which_another_one_goes_on_with(
    serve: Callable[..., Any], queries: list[Candidates], rank: Callable[..., Ranked], fault_free: Callable[..., Any]
) -> None:
    stub = serve("stub_server.py", "--delay", "0.1", "--slots", "16")
    ledger, backend = Ledger(None), opened(stub.url, retries=1)
    answered: list[int] = []
    add = ledger.add

    def kill_after_some(replies: Any) -> None:
        add(replies)
        answered.append(len(ledger))
        if len(ledger) > 30 and stub.popen.poll() is None:
            stub.kill()

    ledger.add = kill_after_some  # type: ignore[method-assign]
    said = failing(backend, rank, queries, ledger)
    assert "no answer from" in said
    assert "run again" in said
    assert 30 < len(ledger) < 200
    again = serve("stub_server.py")
    more = opened(again.url)
    found = rank(POINTWISE, more, queries, ledger=ledger)
    more.close()
    assert orders(found) == fault_free("pointwise.yes_no")
    assert len(ledger) == 200
    ledger.close()


CLIENT = """
import signal
import sys
from pathlib import Path
import r2llm
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
texts = {f"d{i:02d}": f"passage number {i} about moons" for i in range(10)}
r2llm.rerank(
    {f"q{i}": f"query number {i}" for i in range(20)}, {f"q{i}": texts for i in range(20)},
    ranker={"method": "pointwise.yes_no"}, ledger=Path(sys.argv[2]),
    model={"backend": "openai", "name": "stub", "base_url": sys.argv[1]},
)
"""


def running_client(url: str, ledger: Path) -> subprocess.Popen[str]:
    """A process that ranks, some of whose answers are in its ledger already."""
    client = subprocess.Popen([sys.executable, "-c", CLIENT, url, str(ledger)], text=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
            if db.execute("SELECT count(*) FROM replies").fetchone()[0] >= 20:
                break
    assert client.poll() is None
    return client


def test_a_client_that_is_killed_goes_on_from_its_ledger(
    serve: Callable[..., Any],
    queries: list[Candidates],
    rank: Callable[..., Ranked],
    fault_free: Callable[..., Any],
    tmp_path: Path,
) -> None:
    stub = serve("stub_server.py", "--delay", "0.2", "--slots", "8")
    client = running_client(stub.url, tmp_path / "ledger.sqlite")
    os.kill(client.pid, signal.SIGKILL)
    client.communicate()
    ledger, backend = Ledger(tmp_path / "ledger.sqlite"), opened(serve("stub_server.py").url)
    kept = len(ledger)
    found = rank(POINTWISE, backend, queries, ledger=ledger)
    backend.close()
    assert 20 <= kept < 200
    assert sum(cost.calls for _, cost in found) == 200 - kept
    assert orders(found) == fault_free("pointwise.yes_no")
    ledger.close()


def test_ctrl_c_does_not_wait_for_the_server(serve: Callable[..., Any], tmp_path: Path) -> None:
    stub = serve("stub_server.py")
    proxy = serve("fault_proxy.py", "--target", stub.url, "--faults", "hang", "--rate", "0.3")
    client = running_client(proxy.url, tmp_path / "ledger.sqlite")
    started = time.monotonic()
    client.send_signal(signal.SIGINT)
    _, told = client.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert told.strip().endswith("KeyboardInterrupt")
    assert "Task" not in told


def test_replicas_share_the_asks_and_one_that_fails_comes_back(
    serve: Callable[..., Any],
    queries: list[Candidates],
    rank: Callable[..., Ranked],
    fault_free: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_client, "FIRST_REST", 0.05)
    steady, mortal = (serve("stub_server.py", "--delay", "0.02", "--slots", "4") for _ in range(2))
    backend = opened([steady.url, mortal.url], max_concurrency=16)
    found = orders(rank(POINTWISE, backend, queries[:5]))
    shares = [_answered(stub.url) for stub in (steady, mortal)]
    assert sum(shares) == 51  # with that of the probe
    assert min(shares) >= 20
    mortal.kill()
    found |= orders(rank(POINTWISE, backend, queries[5:15]))
    assert _answered(steady.url) == shares[0] + 100
    back = serve("stub_server.py", "--delay", "0.02", "--slots", "4", "--port", mortal.url.split(":")[-1].split("/")[0])
    deadline = time.monotonic() + 30
    while _answered(back.url) == 0 and time.monotonic() < deadline:
        found |= orders(rank(POINTWISE, backend, queries[15:]))
    assert _answered(back.url) > 0
    backend.close()
    assert found == fault_free("pointwise.yes_no")


def _answered(url: str) -> int:
    with urllib.request.urlopen(url.replace("/v1", "/stats")) as reply:
        return int(json.load(reply)["prompts"])
