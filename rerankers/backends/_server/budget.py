"""What a run may spend at a server: money, tokens, calls. It stops before more is spent.

An attempt to send a request reserves the most that it can cost, and waits while that does not fit beside the attempts
under way; what it really cost then takes the reservation's place.
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
    """What requests cost: asks answered, and tokens read and written."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    """Those of the prompt tokens that the server had in its cache."""

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_prompt_tokens + other.cached_prompt_tokens,
        )

    def __sub__(self, other: Spending) -> Spending:
        return Spending(
            self.calls - other.calls,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.cached_prompt_tokens - other.cached_prompt_tokens,
        )

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens


class BudgetSpentError(BackendError):
    """The next request could cost more than is left."""


class Budget:
    """What is spent, what is reserved, and the limits of both together.

    `usd` is the price of so many prompt, completion and cached prompt tokens; None where it is not known.
    """

    def __init__(self, limits: Limits, usd: Callable[[int, int, int], float] | None) -> None:
        self.limits = limits
        self.usd = usd
        self.spent = Spending()
        self._reserved = Spending()
        self._under_way = 0
        self._settled = asyncio.Event()

    async def reserve(self, most: Spending) -> None:
        """Set aside what an attempt can cost at most.

        Raises `BudgetSpentError` where that is more than is left and nothing is under way that could cost less.
        """
        while (limit := self._exceeded(most)) is not None:
            if not self._under_way:
                raise BudgetSpentError(self._message(limit))
            self._settled.clear()
            await self._settled.wait()
        self._reserved += most
        self._under_way += 1

    def settle(self, most: Spending, actual: Spending) -> None:
        """Put what an attempt really cost in the place of what was set aside for it."""
        self._reserved -= most
        self._under_way -= 1
        self.spent += actual
        self._settled.set()

    def price(self, spending: Spending) -> float | None:
        """What that costs, in US dollars; None where prices are not known."""
        if self.usd is None:
            return None
        return self.usd(spending.prompt_tokens, spending.completion_tokens, spending.cached_prompt_tokens)

    def _exceeded(self, most: Spending) -> str | None:
        """The limit that another attempt could exceed, or None."""
        total, limits = self.spent + self._reserved + most, self.limits
        if limits.calls is not None and total.calls > limits.calls:
            return "calls"
        if limits.tokens is not None and total.tokens > limits.tokens:
            return "tokens"
        if limits.usd is not None and (self.price(total) or 0.0) > limits.usd:
            return "usd"
        return None

    def _message(self, limit: str) -> str:
        spent = {
            "calls": f"{self.spent.calls:,} of {self.limits.calls or 0:,} calls are",
            "tokens": f"{self.spent.tokens:,} of {self.limits.tokens or 0:,} tokens are",
            "usd": f"{self.price(self.spent) or 0.0:.4f} of {self.limits.usd or 0.0:g} US dollars are",
        }
        return (
            f"model.budget.{limit}: {spent[limit]} spent and the next request could exceed it; "
            f"all answers are kept: set a larger model.budget.{limit} and run again"
        )
