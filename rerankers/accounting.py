"""What answers cost and how they were read: counts of a query, and of all answers together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce

from .asks import KINDS
from .types import Answer, Ask, AskKind, Cost, plus


@dataclass(slots=True)
class Tally:
    """Counts of answers in all stages, whether the backend, the ledger or an equal ask gave them."""

    calls: int = 0
    """Answers of the backend."""

    answered: int = 0
    """All answers."""

    forms: Counter[str] = field(default_factory=Counter)
    """Texts by the form in which they were read, or the reason why not: `<kind>: <form>`."""

    unread: Counter[str] = field(default_factory=Counter)
    """Texts that could not be read, by reason: `<kind>: <form>`."""

    examples: dict[str, str] = field(default_factory=dict)
    """The first unread text for each reason."""

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


def comparisons(asks: Iterable[Ask]) -> int:
    """Return a round's comparisons as the papers count them: pairs in either order, or prompts about a group."""
    pairs, prompts = set[frozenset[str]](), 0
    for ask in asks:
        counted = KINDS[ask.kind].counted
        if counted == "pair":
            pairs.add(frozenset(ask.docs))
        elif counted:
            prompts += 1
    return len(pairs) + prompts


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of a query's costs over its stages, which wait for each other; None where one is unknown."""
    names = [each.name for each in fields(Cost) if each.name != "query_id"]
    return Cost(costs[0].query_id, **{name: reduce(plus, (getattr(cost, name) for cost in costs)) for name in names})
