"""Limits at a server: what may be spent there, and how fast requests go out.

An attempt to send a request reserves the most that it can cost, and waits while that does not fit beside the attempts
under way; its real cost then replaces the reservation. A server that is asked too much (429, or an error that names a
wait) is waited for, and half as many requests are open from then on; each answer lets a little more through again, as
TCP does it.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING

from pydantic import Field

from ...errors import BackendError, visible
from ...types import Strict

if TYPE_CHECKING:
    from .client import Replica
    from .spec import ServerSpec

PATIENCE = 75.0  # seconds after which a server that only asks to wait is given up, or twice the wait it names if longer
FIRST_WAIT, MAX_WAIT = 0.5, 30.0  # seconds to wait where the server names none, doubled each time
LONG_WAIT = 5.0  # seconds: waits from here on are logged
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Spending = Counter[str]  # see `spending`


class Limits(Strict):
    """Keys of a model's `budget`: what one execution may spend; what has no limit is left out."""

    usd: float | None = Field(None, gt=0, description="US dollars, by the model's prices")
    tokens: int | None = Field(None, ge=1, description="tokens, of prompts and completions together")
    calls: int | None = Field(None, ge=1, description="asks that the server answers")


class BudgetSpentError(BackendError):
    """The next request could cost more than is left."""


def spending(calls: int = 0, prompt: int = 0, completion: int = 0) -> Spending:
    """Return the cost of asks answered, and of tokens read and written."""
    return Counter(calls=calls, prompt_tokens=prompt, completion_tokens=completion)


class Limiter:
    """The account of what is spent and reserved at a server, and the moment at which its next request may go out."""

    def __init__(self, replicas: Sequence[Replica], spec: ServerSpec) -> None:
        self.replicas, self.spent = replicas, spending()
        self._price = spec.price
        self._caps = {name: cap for name, cap in spec.options.budget if cap is not None}
        requests, tokens = spec.options.requests_per_minute, spec.options.tokens_per_minute
        self._request_seconds = 60.0 / requests if requests else 0.0
        self._token_seconds = 60.0 / tokens if tokens else 0.0
        self._reserved = spending()
        self._next = 0.0
        self._open = 0
        self._max_open = math.inf
        self._streak = 0
        self._refused_since: float | None = None
        self._left = asyncio.Event()

    async def enter(self, most: Spending, tokens: float) -> None:
        """Wait until a request of about so many tokens may go out, and reserve the most that it can cost.

        Raises `BudgetSpentError` where that is more than is left and nothing is under way that could cost less.
        """
        while True:
            now, limit = time.monotonic(), self._exceeded(most)
            start = max(self._next, min(replica.resumes for replica in self.replicas))
            if limit and not self._open:
                used, cap = self._used(self.spent)[limit], self._caps[limit]
                words = f"{used:.4f} of {cap:g} US dollars" if limit == "usd" else f"{used:,} of {cap:,} {limit}"
                remedy = f"all answers are kept: set a larger model.budget.{limit} and run again"
                problem = f"{words} are spent and the next request could exceed it"
                raise BudgetSpentError(f"model.budget.{limit}: {problem}; {remedy}")
            if limit or self._open >= self._max_open:
                self._left.clear()
                await self._left.wait()
            elif start > now:
                await asyncio.sleep(start - now)
            else:
                break
        self._open += 1
        self._reserved.update(most)
        self._next = max(now, self._next) + max(self._request_seconds, tokens * self._token_seconds)

    def leave(self, most: Spending, cost: Spending, tokens: float, *, answered: bool) -> None:
        """Count a request as done, which `enter` was told the most and the tokens of, at its real cost."""
        self._open -= 1
        self._reserved.subtract(most)
        self.spent.update(cost)
        if answered:
            self._next += (cost["prompt_tokens"] + cost["completion_tokens"] - tokens) * self._token_seconds
            self._streak, self._refused_since = 0, None
            self._max_open += 1 / self._max_open
        self._left.set()

    def limited(self, replica: Replica, named: float | None, message: str) -> bool:
        """Slow down after a refusal that names so many seconds to wait, or None; False if it is time to give up."""
        now = time.monotonic()
        self._refused_since = now if self._refused_since is None else self._refused_since
        if now >= replica.resumes:  # else the request went out before the pause began
            self._streak += 1
            self._max_open = max(1.0, min(self._max_open, self._open) / 2)
        if now - self._refused_since > max(PATIENCE, 2 * (named or 0.0)):
            return False
        wait = named or backoff(self._streak - 1, FIRST_WAIT, MAX_WAIT)
        if now + wait > replica.resumes:
            replica.resumes = now + wait
            if wait >= LONG_WAIT:
                text = f"{replica.url} asks to wait {wait:,.0f} s ({message}); the run goes on then"
                logging.getLogger(__name__).warning("%s", visible(text))
        return True

    def _used(self, cost: Spending) -> dict[str, float]:
        prompt, completion = cost["prompt_tokens"], cost["completion_tokens"]
        usd = self._price.usd(prompt, completion) if self._price else 0.0
        return {"calls": cost["calls"], "tokens": prompt + completion, "usd": usd}

    def _exceeded(self, most: Spending) -> str | None:
        """Return the limit that another attempt could exceed, or None."""
        used = self._used(self.spent + self._reserved + most) if self._caps else {}
        return next((name for name, cap in self._caps.items() if used[name] > cap), None)


def backoff(failures: int, first: float, most: float) -> float:
    """Return the seconds to wait after earlier failures: doubled each time, up to a quarter left out by chance."""
    return min(first * 2.0 ** max(failures, 0), most) * random.uniform(0.75, 1)  # noqa: S311


def named_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait that a reply's headers name, or None.

    `retry-after-ms`; `Retry-After` in seconds or as a date; else when the limit that is used up is renewed
    (`x-ratelimit-reset…`): in seconds, as "1m30s", or as a time since 1970 in seconds or milliseconds.
    """
    waits = [_seconds(headers.get("retry-after-ms", ""), 0.001), _seconds(headers.get("retry-after", ""))]
    for name in headers:
        if name.lower().startswith(("x-ratelimit-reset", "ratelimit-reset")):
            left = headers.get(name.lower().replace("reset", "remaining"), "0")
            waits.append(_seconds(headers[name]) if left.strip() in ("0", "0.0") else None)
    return next((wait for wait in waits[:2] if wait is not None), max(filter(None, waits), default=None))


def _seconds(text: str, unit: float = 1.0) -> float | None:
    text = text.strip()
    try:
        number = float(text) * unit
    except ValueError:
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
        if parts and "".join(map("".join, parts)) == text:
            return sum(float(count) * UNITS[name] for count, name in parts)
        try:
            date = email.utils.parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        number = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()  # HTTP's dates are GMT, said or not
    if not math.isfinite(number):
        return None
    if number > 1e9:  # a time, and no length of time
        number = number / (1000 if number > 1e11 else 1) - time.time()
    return max(number, 0.0)
