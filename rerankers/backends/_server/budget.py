"""Spending at a server, in money, tokens and calls, which stops before a limit is exceeded.

An attempt to send a request reserves the most that it can cost, and waits while that does not fit beside the attempts
under way; its real cost then replaces the reservation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from ...errors import BackendError


class Limits(BaseModel):
    """Keys of a model's `budget`: what one execution may spend; what has no limit is left out."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    usd: float | None = Field(None, gt=0, description="US dollars, by the model's prices")
    tokens: int | None = Field(None, ge=1, description="tokens, of prompts and completions together")
    calls: int | None = Field(None, ge=1, description="asks that the server answers")


@dataclass(frozen=True, slots=True)
class Spending:
    """The cost of requests: asks answered, tokens read and written, and those of the prompt that were cached."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """The four counts."""
        return self.calls, self.prompt_tokens, self.completion_tokens, self.cached_prompt_tokens

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spending) -> Spending:
        return Spending(*(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)))

    def __sub__(self, other: Spending) -> Spending:
        return Spending(*(mine - theirs for mine, theirs in zip(self.counts, other.counts, strict=True)))


NOTHING = Spending()


class BudgetSpentError(BackendError):
    """The next request could cost more than is left."""


class Budget:
    """Costs spent and reserved, and the limits of both together."""

    def __init__(self, limits: Limits, usd: Callable[[int, int, int], float] | None) -> None:
        self.limits = limits
        self.usd = usd
        self.spent = NOTHING
        self._reserved = NOTHING
        self._under_way = 0
        self._settled = asyncio.Event()

    async def reserve(self, most: Spending) -> None:
        """Set aside the most that an attempt can cost.

        Raises `BudgetSpentError` where that is more than is left and nothing is under way that could cost less.
        """
        while limit := self._exceeded(self.spent + self._reserved + most):
            if not self._under_way:
                used, cap = self._used(self.spent)[limit], getattr(self.limits, limit)
                words = f"{used:.4f} of {cap:g} US dollars" if limit == "usd" else f"{used:,} of {cap:,} {limit}"
                raise BudgetSpentError(
                    f"model.budget.{limit}: {words} are spent and the next request could exceed it; "
                    f"all answers are kept: set a larger model.budget.{limit} and run again"
                )
            self._settled.clear()
            await self._settled.wait()
        self._reserved += most
        self._under_way += 1

    def settle(self, most: Spending, actual: Spending) -> None:
        """Replace an attempt's reservation by its real cost."""
        self._reserved -= most
        self._under_way -= 1
        self.spent += actual
        self._settled.set()

    def price(self, spending: Spending) -> float | None:
        """Return the cost in US dollars, or None if prices are not known."""
        return self.usd(*spending.counts[1:]) if self.usd else None

    def _used(self, spending: Spending) -> dict[str, float]:
        return {"calls": spending.calls, "tokens": spending.tokens, "usd": self.price(spending) or 0.0}

    def _exceeded(self, total: Spending) -> str | None:
        caps = ((name, used, getattr(self.limits, name)) for name, used in self._used(total).items())
        return next((name for name, used, cap in caps if cap is not None and used > cap), None)
