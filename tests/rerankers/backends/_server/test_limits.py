"""How fast requests go: waits that servers name, limits a minute, and fewer requests at once after a refusal."""

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from r2llm.rerankers.backends._server import limits
from r2llm.rerankers.backends._server.limits import Limiter, named_wait, spending
from r2llm.rerankers.backends._server.spec import Options, ServerSpec


@dataclass
class Replica:
    url: str = "http://localhost:8000/v1"
    resumes: float = 0.0


def limiter(replica: Replica, **options: float) -> Limiter:
    return Limiter([replica], ServerSpec(Options(name="stub", **options)))  # type: ignore[list-item, arg-type]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "86400"}, 86_400.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset-requests": "1m30s", "x-ratelimit-remaining-requests": "0"}, 90.0),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "500"}, None),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"retry-after": "0", "x-ratelimit-reset": "12"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
def test_the_wait_that_headers_name(headers: dict[str, str], seconds: float | None) -> None:
    assert named_wait(headers) == (None if seconds is None else pytest.approx(seconds))


def test_a_date_or_a_time_since_1970_is_waited_for() -> None:
    then = datetime.now(UTC) + timedelta(hours=2)
    for text in (format_datetime(then, usegmt=True), f"{then.timestamp():.0f}", f"{then.timestamp() * 1000:.0f}"):
        assert named_wait({"x-ratelimit-reset": text}) == pytest.approx(7200, abs=5)


@pytest.mark.parametrize("form", ["%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S -0000"])
def test_a_date_without_a_zone_is_in_gmt(form: str, monkeypatch) -> None:
    then = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert named_wait({"retry-after": then.strftime(form)}) == pytest.approx(7200, abs=5)
    finally:
        monkeypatch.undo()
        time.tzset()


def seconds_for(limits: dict[str, float], tokens: int, more: int = 0) -> float:
    """How long five requests take that are answered at once."""

    async def run() -> float:
        paced = limiter(Replica(), **limits)
        started = time.monotonic()

        async def request() -> None:
            await paced.enter(spending(), tokens)
            paced.leave(spending(), spending(prompt=tokens + more), tokens, answered=True)

        await asyncio.gather(*(request() for _ in range(5)))
        return time.monotonic() - started

    return asyncio.run(run())


def test_requests_and_tokens_a_minute_are_limited() -> None:
    assert seconds_for({}, 100) < 0.2
    assert 0.4 <= seconds_for({"requests_per_minute": 600}, 100) < 2
    assert 0.4 <= seconds_for({"tokens_per_minute": 60_000}, 100) < 2
    assert 0.4 <= seconds_for({"tokens_per_minute": 60_000}, 10, more=90) < 2


def test_a_refusal_halves_what_is_open_and_answers_let_more_through() -> None:
    async def run() -> None:
        replica = Replica()
        paced = limiter(replica)
        for _ in range(8):
            await paced.enter(spending(), 1)
        assert all(paced.limited(replica, 0.05, "slow down") for _ in range(8))  # one burst is one refusal
        for _ in range(8):
            paced.leave(spending(), spending(), 1, answered=False)
        started = time.monotonic()
        for _ in range(4):
            await paced.enter(spending(), 1)
        assert time.monotonic() - started >= 0.04
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(paced.enter(spending(), 1), 0.05)
        for _ in range(5):
            paced.leave(spending(), spending(), 1, answered=True)
        await asyncio.wait_for(paced.enter(spending(), 1), 1)

    asyncio.run(run())


def test_long_waits_are_noted_and_refusals_without_end_are_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        replica, now = Replica(), [1000.0]
        monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
        paced = limiter(replica)
        await paced.enter(spending(), 1)
        assert paced.limited(replica, 3600.0, "daily\x1b limit")
        assert caplog.messages == [
            r"http://localhost:8000/v1 asks to wait 3,600 s (daily\x1b limit); the run goes on then"
        ]
        assert replica.resumes == 4600.0
        now[0] = 4600.0
        assert paced.limited(replica, 3600.0, "")
        now[0] = 8300.0
        assert not paced.limited(replica, 3600.0, "")
        paced.leave(spending(), spending(), 1, answered=True)
        assert paced.limited(replica, None, "")
        now[0] += limits.PATIENCE + 1
        assert not paced.limited(replica, None, "")

    caplog.set_level(logging.WARNING)
    asyncio.run(run())
