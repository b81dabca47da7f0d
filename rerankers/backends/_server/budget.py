"""Spending at a server, in money, tokens and calls, which stops before a limit is exceeded.

An attempt to send a request reserves the most that it can cost, and waits while that does not fit beside the attempts
under way; its real cost then replaces the reservation.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from ...errors import BackendError

Spending = Counter[str]
"""Counts of a request's cost; see `spending`."""


class Limits(BaseModel):
    """Keys of a model's `budget`: what one execution may spend; what has no limit is left out."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    usd: float | None = Field(None, gt=0, description="US dollars, by the model's prices")
    tokens: int | None = Field(None, ge=1, description="tokens, of prompts and completions together")
    calls: int | None = Field(None, ge=1, description="asks that the server answers")


class BudgetSpentError(BackendError):
    """The next request could cost more than is left."""


def spending(calls: int = 0, prompt: int = 0, completion: int = 0, cached: int = 0) -> Spending:
    """Return the cost of asks answered, and of tokens read and written, some of those read cached at the server."""
    return Counter(calls=calls, prompt_tokens=prompt, completion_tokens=completion, cached_prompt_tokens=cached)


class Budget:
    """Costs spent and reserved, and the limits of both together."""

    def __init__(self, limits: Limits, usd: Callable[[int, int, int], float] | None) -> None:
        self.spent = spending()
        self._caps = {name: cap for name, cap in limits if cap is not None}
        self._usd = usd
        self._reserved = spending()
        self._under_way = 0
        self._settled = asyncio.Event()

    async def reserve(self, most: Spending) -> None:
        """Set aside the most that an attempt can cost.

        Raises `BudgetSpentError` where that is more than is left and nothing is under way that could cost less.
        """
        while limit := self._exceeded(most):
            if not self._under_way:
                used, cap = self._used(self.spent)[limit], self._caps[limit]
                words = f"{used:.4f} of {cap:g} US dollars" if limit == "usd" else f"{used:,} of {cap:,} {limit}"
                raise BudgetSpentError(
                    f"model.budget.{limit}: {words} are spent and the next request could exceed it; "
                    f"all answers are kept: set a larger model.budget.{limit} and run again"
                )
            self._settled.clear()
            await self._settled.wait()
        self._reserved.update(most)
        self._under_way += 1

    def settle(self, most: Spending, actual: Spending) -> None:
        """Replace an attempt's reservation by its real cost."""
        self._reserved.subtract(most)
        self._under_way -= 1
        self.spent.update(actual)
        self._settled.set()

    def usd(self, cost: Spending) -> float | None:
        """Return the price of a cost in US dollars, or None if prices are not known."""
        names = ("prompt_tokens", "completion_tokens", "cached_prompt_tokens")
        return self._usd(*(cost[name] for name in names)) if self._usd else None

    def _used(self, cost: Spending) -> dict[str, float]:
        tokens = cost["prompt_tokens"] + cost["completion_tokens"]
        return {"calls": cost["calls"], "tokens": tokens, "usd": self.usd(cost) or 0.0}

    def _exceeded(self, most: Spending) -> str | None:
        """Return the limit that another attempt could exceed, or None."""
        used = self._used(self.spent + self._reserved + most) if self._caps else {}
        return next((name for name, cap in self._caps.items() if used[name] > cap), None)
