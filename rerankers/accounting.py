"""Costs: counts of one query and of all answers together."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import TYPE_CHECKING

from .asks import KINDS
from .types import Answer, Ask, AskKind, Cost, plus

if TYPE_CHECKING:
    import pandas as pd


@dataclass(slots=True)
class Tally:
    """Counts of answers in all stages: `calls` the backend's, `answered` also the ledger's and those of equal asks.

    `forms` counts texts by the form in which they were read, or the reason why not, as `<kind>: <form>`; `unread` only
    the latter, of which `examples` has the first text each. `listener` is called with `answered` when it has grown.
    """

    calls: int = 0
    answered: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    listener: Callable[[int], None] = lambda answered: None  # noqa: ARG005

    def add(self, kind: AskKind, answer: Answer) -> None:
        """Count an answer to an ask of this kind."""
        self.answered += 1
        if answer.form:
            form = f"{kind}: {answer.form}"
            self.forms[form] += 1
            if not answer.parsed:
                self.unread[form] += 1
                self.examples.setdefault(form, answer.text or "")

    @property
    def unread_by_kind(self) -> dict[str, int]:
        """Return the number of unread answers by kind of ask, kinds in alphabetical order."""
        kinds: Counter[str] = Counter()
        for form, count in self.unread.items():
            kinds[form.partition(":")[0]] += count
        return dict(sorted(kinds.items()))


def comparisons(asks: Sequence[Ask]) -> int:
    """Return a round's comparisons as the papers count them: pairs in either order, or prompts about a group."""
    pairs = {frozenset(ask.docs) for ask in asks if KINDS[ask.kind].counted == "pair"}
    return len(pairs) + sum(KINDS[ask.kind].counted == "prompt" for ask in asks)


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of a query's costs over its stages, which wait for each other; None where one is unknown."""
    names = [each.name for each in fields(Cost) if each.name != "query_id"]
    return Cost(costs[0].query_id, **{name: reduce(plus, (getattr(cost, name) for cost in costs)) for name in names})


def frame(costs: Sequence[Cost]) -> "pd.DataFrame":
    """Return costs as a frame, a row a qid."""
    import pandas as pd

    names = [field.name for field in fields(Cost)]
    rows = [[getattr(cost, name) for name in names] for cost in costs]
    return pd.DataFrame(rows, columns=["qid", *names[1:]]).set_index("qid")
