"""Orders and selections: the documents that a generated text names, best first.

A text is searched for labels, and labels with nothing but separators between them are runs. A run is an order or a
mention by its form, by what stands around it, and by how many documents it names.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple
from unicodedata import digit

from .labels import AFTER, LEAD_IN, MARKS, NOUN, Found, indices_of, key, like
from .ratings import end_of
from .thinking import SPACES, plain_answer

OrderRule = Literal["strict", "digits", "ascending", "ties", "full"]
RULES: Mapping[str, str] = {
    "strict": "the longest chain of labels, [2] > [1], wherever it stands, or list of them on lines of their own, "
    "numbered or not, or bare labels that are all there is; labels in prose do not count",
    "digits": "every number anywhere, in the order written",
    "ascending": "every number anywhere, the last one best",
    "ties": "labels, in brackets or bare, with > or = between them, up to the first that is repeated",
    "full": "the first chain of as many labels as there are documents, [2] > [1], which must name each one once",
}
"""Rules of reading an order, in words."""

SELECTION = "the labels on the last line that holds nothing else, or a list of one a line; no more than asked for"

Joint = Literal["any", "chain", "selection"]
"""Separators of labels: any; > or = only; any on one line and "..." too, which ranks nothing (TourRank)."""

LONGEST = 50_000  # characters: of a longer text only the end is read; two hundred labels take 2,000
NEAR = 80  # characters around a run that are looked at to see whether it stands alone
BETWEEN = SPACES + MARKS + ",;|=#"
STRONGER = re.compile("[>=]")
LIST_NUMBER = re.compile(r"[0-9]{1,4}[.)]")
CUT_OFF = re.compile(r"(?:\[[A-Za-z0-9 ]{0,12}|\s[0-9]{1,4}[.)]?)\Z")


class _Item(NamedTuple):
    """A label in a text, marked by brackets or a noun or bare; `doc` is its index, or None."""

    start: int
    end: int
    doc: int | None
    marked: bool


class _Run(NamedTuple):
    """Labels one after the other, and the valid ones among them, without repeats."""

    start: int
    end: int
    marked: int
    named: tuple[int, ...]
    form: str


def read_order(text: str, labels: Sequence[str], rule: OrderRule = "strict") -> Found[tuple[int, ...]]:
    """Return the indices of the documents in the order that a text gives, best first.

    `strict`: marked labels, in brackets or after "Passage", with > or = between them (`chain`; `mixed_chain` where a
    bracket was lost, "11] > [12]"); bare ones so on a line of their own (`bare_chain`); marked labels with commas,
    blanks or new lines between them on lines of their own (`list`), or numbered (`numbered_list`); bare labels
    (`comma_list`) or one label (`single`) that are all there is. Of several, the one that names the most documents,
    since an example quoted from the prompt is short; of equally long ones the last.

    The other rules are those of older code, and read the raw text. `digits`: every number anywhere, as RankGPT reads
    it, digits of any script and form too (castorini/rank_llm at 1b3cabb); a text without any keeps the order;
    `ascending`: the same from the end (soyoung97/ListT5 at 6838938). `ties`
    (hltcoe/rank-k at ecdf232): between > and = what is no label is passed over. `full` (mteb at a905523, LightOn).

    Repeated and out-of-range labels are dropped, missing ones appended in the order presented.
    """
    if rule in ("digits", "ascending"):
        plain = text if text.isascii() else "".join(str(digit(c)) if c.isdigit() else c for c in text)
        positions = {str(i + 1): i for i in range(len(labels))}
        numbers = (number.lstrip("0") for number in re.findall("[0-9]+", plain))
        named = [positions[number] for number in numbers if number in positions]
        return Found(_completed(named if rule == "digits" else named[::-1], len(labels)), rule)
    if rule == "ties":
        indices, named = indices_of(labels), []
        for item in re.split("[>=]", text):
            index = indices.get(key(item.strip().replace("[", "").replace("]", "").strip()))
            if index in named:
                break
            named += [] if index is None else [index]
        return Found(_completed(named, len(labels)) if named else None, rule if named else "no_order")
    if rule == "full":
        chain = re.search(r"\s*>\s*".join([r"\[([^\[\]]+)\]"] * len(labels)), text)
        order = tuple(indices_of(labels).get(key(label), -1) for label in chain.groups()) if chain else ()
        return Found(order, rule) if sorted(order) == [*range(len(labels))] else Found(None, "no_order")
    return _read(text, tuple(labels), "any", len(labels), lambda run: (len(run.named), run.end))


def read_selection(text: str, labels: Sequence[str], limit: int) -> Found[tuple[int, ...]]:
    """Return the indices of the `limit` documents that a text selects, in the order named (TourRank, arXiv:2406.11678).

    The last labels on lines of their own count, as in "Document 3, ..., Document 1", or the last chain of marked ones.
    Where fewer are named, the first of the others follow (as llm4ranking reads it). Forms as for `read_order`.
    """
    return _read(text, tuple(labels), "selection", max(limit, 0), lambda run: (bool(run.named), run.end))


def _read(
    text: str, labels: tuple[str, ...], joint: Joint, limit: int, rank: Callable[[_Run], tuple[int, int]]
) -> Found[tuple[int, ...]]:
    answer, why_not = plain_answer(text)
    answer = end_of(answer, LONGEST).strip(SPACES)
    indices = indices_of(labels)
    items = _items(answer, labels, indices)
    runs = [run for run in _runs(answer, items, "chain") if _is_order(answer, run, "chain")]
    runs += _numbered_lines(answer, labels, indices)
    runs += [run for run in _runs(answer, items, "any") if _is_order(answer, run, joint)]
    if joint == "selection":  # a label alone is one of several lines, or all there is
        lines = _runs(answer, items, joint)
        runs = [run for run in lines if run.form != "single" and _is_order(answer, run, joint)] + runs
    best = max(runs, key=rank, default=None)
    if best is None:
        return Found(None, "prose" if answer else why_not)
    return Found(_completed(best.named, len(labels))[:limit], best.form) if best.named else Found(None, "out_of_range")


def _completed(stated: Sequence[int], docs: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys((*stated, *range(docs))))


@lru_cache(maxsize=64)
def _item_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    one = like(labels)
    return re.compile(
        rf"(?<![\w.])[0-9]{{1,4}}[.)][*_]{{0,3}}[ \t]++(?=[*_]{{0,3}}(?:\[|{NOUN}))|"  # the number of a list's line
        rf"^[ \t]*+[0-9]{{1,4}}[.)][ \t]++(?={one}[ \t]*+$)|"
        rf"\[[ ]{{0,3}}(?:{NOUN}[ _#:]{{0,3}})?({one})[ ]{{0,3}}\]|"
        rf"(?<![^\W_]){NOUN}[ _#:]{{0,3}}(?:\[({one})\]|({one}))(?!\w)|"
        rf"(?<![\w.$\u20ac\xa3-])({one})(?![\w%]|\.\w)\]?",
        re.MULTILINE,
    )


def _items(text: str, labels: tuple[str, ...], indices: Mapping[str, int]) -> list[_Item]:
    items = []
    for match in _item_pattern(labels).finditer(text):
        bracketed, after_noun, after_noun_bare, bare = match.groups()
        marked = bracketed or after_noun or after_noun_bare
        # Neither the number of a line, nor a label that was cut off: "[1".
        if marked or (bare and (match.end() < len(text) or text[match.start() - 1 : match.start()] != "[")):
            items.append(_Item(match.start(), match.end(), indices.get(key(marked or bare)), bool(marked)))
    return items


def _run_of(items: Sequence[_Item], form: str) -> _Run:
    named = tuple(dict.fromkeys(item.doc for item in items if item.doc is not None))
    return _Run(items[0].start, items[-1].end, sum(item.marked for item in items), named, form)


def _runs(text: str, items: Sequence[_Item], joint: Joint) -> Iterator[_Run]:
    """Yield the longest runs of labels with nothing between them but separators."""
    run, gaps = list(items[:1]), list[str]()
    for left, right in pairwise(items):
        gap = text[left.end : right.start]
        if not _separates(gap, left, right, joint):
            yield _run(text, run, gaps)
            run, gaps = [], []
        else:
            gaps.append(gap)
        run.append(right)
    if run:
        yield _run(text, run, gaps)


def _separates(gap: str, left: _Item, right: _Item, joint: Joint) -> bool:
    ranks = STRONGER.search(gap) is not None
    if "<" in gap.partition(">")[0]:  # "[1] < [2]" says the contrary; "<1>, <2>" does not
        return False
    if not ranks and (joint == "chain" or left.marked != right.marked):
        return False
    if joint == "selection" and "\n" in gap and not ranks and "," not in gap:
        return False
    core = gap.strip(BETWEEN)
    if not core or LIST_NUMBER.fullmatch(core):
        return True
    if core in {"-", "\u2022"}:  # "[1] - [5]" is a range
        return "\n" in gap or "->" in gap
    if joint == "selection":
        core = core.strip(BETWEEN + ".\u2026")
    return not ranks and core.casefold() in {"", "and", "&"}


def _run(text: str, items: Sequence[_Item], gaps: Sequence[str]) -> _Run:
    """Return a run with its form: `prose` where columns or counting down make it unclear."""
    if not gaps:  # as most labels in long texts, so nothing is looked for in vain
        return _run_of(items, "single")
    marked = [item for item in items if item.marked]
    numbers = [gap.strip(BETWEEN)[:-1] for gap in gaps if LIST_NUMBER.fullmatch(gap.strip(BETWEEN))]
    if numbers and marked:  # the others are numbers of lines: "1. [14] > 2. [15] > 3"
        items = marked
    if len(items) == 1:
        form = "single"
    elif numbers:
        before = re.findall(r"([0-9]{1,4})[.)]\W*\Z", text[max(0, items[0].start - 9) : items[0].start])
        ranks = [int(number) for number in before + numbers]
        form = "numbered_list" if ranks == sorted(ranks) else "prose"
    elif any(STRONGER.search(gap if marked else gap.replace("=", "")) for gap in gaps):
        form = "bare_chain" if not marked else "chain" if len(marked) == len(items) else "mixed_chain"
    elif len({"\n" in gap and not gap.strip() for gap in gaps}) > 1:
        form = "prose"  # lines of several labels: the first may be a rank
    else:
        form = "list" if marked else "comma_list"  # "3 = 2" ranks nothing, unless it is all there is
    return _run_of(items, form)


def _is_order(text: str, run: _Run, joint: Joint) -> bool:
    """Return whether a run is an order, and not a mention."""
    if run.form == "prose":
        return False
    if joint != "selection" and run.form == "single":
        return _is_all(text, run)
    if joint != "selection" and run.marked == 0 and run.form in {"comma_list", "numbered_list"}:
        return len(run.named) > 1 and _is_all(text, run)  # "1,000" is no list
    ranks = run.form in {"chain", "mixed_chain"} and run.marked > 1
    return (joint == "chain" and ranks) or _stands_alone(text, run) or _is_all(text, run)


def _stands_alone(text: str, run: _Run) -> bool:
    """Return whether nothing else is on the lines of a run but a lead-in, such as "The ranking is:"."""
    before = text[max(0, run.start - NEAR) : run.start].rpartition("\n")[2].strip(SPACES + MARKS + "#-\u2022")
    after = text[run.end : run.end + NEAR].partition("\n")[0]
    if run.end + len(after) == len(text) and not CUT_OFF.sub("", after).strip(BETWEEN):
        after = ""
    introduced = not before or LIST_NUMBER.fullmatch(before)
    if not introduced and run.form != "single":  # "1: [3]" may give a rank or a score
        introduced = re.search(r"(?:[:=]|\b(?:is|are|be))\Z", before)
    return bool(introduced) and not after.strip(AFTER)


def _is_all(text: str, run: _Run) -> bool:
    """Return whether a run is the whole text, but for punctuation and a lead-in."""
    if run.start > NEAR or len(text) - run.end > NEAR or text[run.end :].strip(AFTER):
        return False
    before = text[: run.start].strip(SPACES + MARKS + "#")
    while (lead_in := LEAD_IN.match(before)) is not None:
        before = before[lead_in.end() :].strip(SPACES + MARKS + "#")
    return not before or (run.form == "numbered_list" and LIST_NUMBER.fullmatch(before) is not None)


def _numbered_lines(text: str, labels: tuple[str, ...], indices: Mapping[str, int]) -> Iterator[_Run]:
    """Yield lists of lines such as "1. [3] - explains it" or "| 1 | [3] | explains it |", numbered from 1."""
    one = like(labels)
    line = re.compile(
        rf"^[ \t|*]*+([0-9]{{1,4}})(?:[.)][*_]{{0,3}}[ \t]++|[ \t]*+\|[ \t]*+)"
        rf"[*_]{{0,3}}(?:\[(?:{NOUN}[ ]?)?({one})\]|{NOUN}[ ]?\[?({one})\]?)[*_]{{0,3}}"
        r"(?=[ \t]*+(?:$|[-\u2013\u2014:(|]))",
        re.MULTILINE,
    )
    lists: list[list[_Item]] = [[]]
    for match in line.finditer(text):
        if int(match[1]) != len(lists[-1]) + 1:
            lists.append([])
        if int(match[1]) == len(lists[-1]) + 1:
            index = indices.get(key(match[2] or match[3]))
            lists[-1].append(_Item(match.start(), match.end(), index, marked=True))
    return (_run_of(items, "numbered_list") for items in lists if len(items) > 1)
