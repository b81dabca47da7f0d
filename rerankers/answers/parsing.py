"""Generated text becomes answers here: labels, orders, selections, ratings. Text goes in, a value comes out.

Nothing raises and nothing is guessed: a text that does not say what was asked for gives no value, and a number or a
letter in prose says nothing. Every function also names the form that it read, so that forms can be counted.

Answers of reasoning models are read after their thought, whose marks are `THOUGHTS`; only the rules of the older
toolkits (`exact`, `whole`, `last_character`, `digits`) take the raw text, as those toolkits do. Running time is linear
in the text's length, whatever is in it, and no text becomes an integer: int() refuses more than 4,300 digits.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Generic, Literal, TypeVar

LabelRule = Literal["strict", "exact", "whole", "last_character"]
LABEL_RULES: Mapping[LabelRule, str] = {
    "strict": "a label, with nothing around it but punctuation and words such as 'The answer is', or else the only one "
    "that is stated as the answer, on a line of its own, before an explanation or in a sentence that names the best",
    "exact": "a label and nothing else",
    "whole": "a label and nothing else, in any case",
    "last_character": "a label as the last character",
}
"""How a label is read from text: see `read_label`."""

PermutationRule = Literal["strict", "digits"]
ORDER_RULES: Mapping[PermutationRule, str] = {
    "strict": "the longest chain of labels, [2] > [1], or list of nothing else; labels in prose do not count",
    "digits": "every number anywhere, in the order written",
}
"""How an order is read from text: see `read_permutation`."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What a text gave: a value and the form that it was read in, or None and why there is none.

    Why not: `empty`, `unfinished_thought`, `no_label` and `ambiguous` (labels), `prose` (no form was found) and
    `out_of_range` (a form was found, but it names nothing that was presented).
    """

    value: T | None
    form: str


# Thoughts

THOUGHTS = (
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
    *(  # <think>, <seed:think>, <thought>, …
        (rf"<\|?{name}\|?\s?>", rf"<\|?/{name}\|?\s?>")
        for name in (r"(?:\w{1,9}[:_])?think(?:ing)?", "thoughts?", "reason(?:ing)?", "reflection", "analysis", "cot")
    ),
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    (r"<unused94>", r"<unused95>"),  # MedGemma
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
    # gpt-oss (Harmony): every channel but the last is thought
    (r"<\|channel\|>\s*+(?!final)", r"<\|channel\|>\s*+final(?:\s*+<\|constrain\|>\w*+)?(?:\s*+<\|message\|>)?"),
)
"""The marks that begin and end a thought, in any case; a thought ends with the mark that belongs to its beginning."""

IN_WORDS = (
    (
        r"\A[\s*]*+(?:assistant)?(?:analysis|commentary)(?=[A-Za-z]|\s*+[^a-z\s:=.,;_-]|[ ]*+\n|\Z)",
        "<|channel|>analysis",
    ),
    (r"assistant\n{0,2}final", "<|channel|>final"),
    (r"\A\s*+Here(?: is|'s) my thought process:", "<think>"),
    (r"Here(?: is|'s) my response:", "</think>"),
)
"""Words that are marks: without special tokens, Harmony leaves "analysisWe …assistantfinal[2]"; and Granite's."""

ANSWERS = (
    r"<answer>|<response>|<\|begin_of_solution\|>|<\|START_RESPONSE\|>",
    r"</answer>|</response>|<\|end_of_solution\|>|<\|END_RESPONSE\|>|<\|(?:end|return|call)\|>",
)
"""The marks that begin and end an answer."""

MARK = r"(?i)(?=[<\[◁][/|]{0,2}[a-z])(?:"
TAG = re.compile(MARK + "|".join(f"({mark})" for marks in THOUGHTS for mark in marks) + ")")
ANSWER_TAG = re.compile(MARK + "|".join(f"({mark})" for mark in ANSWERS) + ")")


def after_thinking(text: str) -> str | None:
    """Return what follows a reasoning model's thought and, where it has one, stands in its last <answer>.

    A thought may lack its opening mark, which chat templates write themselves; opened and never closed, it leaves no
    answer: None. Thoughts do not nest, the first closing mark ends them; where nothing follows the last thought, what
    stands before it counts. Of answers the last that is closed counts, else the last that was begun (Rank-R1,
    arXiv:2503.06034, and ReasonRank, arXiv:2508.07050, write <think>…</think><answer>…</answer>).
    """
    for words, meant in IN_WORDS:
        text = re.sub(words, meant, text)
    outside: list[str] = []
    start, thought = 0, None  # where the present stretch outside thoughts began, or the kind of the present thought
    for mark in TAG.finditer(text):
        kind, closes = divmod((mark.lastindex or 0) - 1, 2)
        if closes and thought in {None, kind}:
            if thought is None:  # its opening mark is not in the text
                outside = []
            start, thought = mark.end(), None
        elif thought is None:
            outside.append(text[start : mark.start()])
            thought = kind
    if thought is not None:
        return None
    outside.append(text[start:])
    return _in_answer_tags(next((piece for piece in reversed(outside) if piece.strip()), ""))


def _in_answer_tags(text: str) -> str:
    begun: int | None = None
    closed: str | None = None
    for mark in ANSWER_TAG.finditer(text):
        if mark.lastindex == 1:
            begun = mark.end()
        elif begun is not None or closed is None:
            closed, begun = text[begun or 0 : mark.start()], None
    return text[begun or 0 :] if closed is None else closed


def _answer(text: str) -> tuple[str, str]:
    r"""Return what is answered after any thought, or "" and why there is none.

    What only decorates is left out: Markdown's fences and LaTeX's \boxed{…}; what means the same is written one way.
    """
    answer = after_thinking(text.replace("&lt;", "<").replace("&gt;", ">"))
    if answer is None:
        return "", "unfinished_thought"
    return DECORATION.sub("", answer.translate(SAME)).strip(SPACES), "empty"


SAME = str.maketrans("［］【】〔〕＃：，、＝＞≥⩾≧≫≻≽⪰→⇒", "[][][]#:,,=>>>>>>>>>>")  # noqa: RUF001
DECORATION = re.compile(r"\\(?:boxed|text|mathrm)(?=\{)|```\w*\n")


# What labels look like

SPACES = string.whitespace + "\0\x85\xa0\u200b\u2009\u202f\u2028\u2029\u3000\ufeff"
MARKS = "\"'`*_\u201c\u201d\u2018\u2019\xab\xbb()[]{}<>$\\"
BEFORE = SPACES + MARKS + ",;:#="
AFTER = SPACES + MARKS + ",;:.!="
BETWEEN = SPACES + MARKS + ",;|=#"
STRONGER = re.compile("[>=]")
LIST_NUMBER = re.compile(r"[0-9]{1,4}[.)]")
CUT_OFF = re.compile(r"(?:\[[A-Za-z0-9 ]{0,12}|\s[0-9]{1,4}[.)]?)\Z")
NOUN = r"(?i:passage|document|doc)"
NEAR = 80
"""How many characters around a chain are looked at to see whether it stands alone."""

LEAD_IN = re.compile(
    r"(?:(?:the|my|so|thus|therefore)\b,?\s+)*(?:(?:final|best|correct|overall|sorted|(?:most|more)\s+relevant)\b[\s_]+)*"
    r"(?:passages?(?=[\"']?\s*[:=])|passage|sorted_passages|documents?(?=[\"']?\s*[:=])|document|doc|text|one|candidate|"
    r"answer|output|label|choice|option|result|response|judge?ment|relevance|rating|score|verdict|ranking|order)(?![^\W_])"
    r"(?:\s+(?:label|number|id|identifier|judge?ment|score|level))?(?:\s+to\s+the\s+query)?"
    r"(?P<verb>\s+(?:is|would\s+be|should\s+be)\b)?(?:[\"']?\s*(?P<colon>[:=]))?",
    re.IGNORECASE,
)


def _key(label: str) -> str:
    """What makes two labels the same: case does not matter, nor do leading zeros."""
    if not label.isascii():  # the long s is no s
        return label
    return (label.lstrip("0") or "0") if label.isdigit() else " ".join(label.casefold().split())


def _indices(labels: Sequence[str]) -> dict[str, int]:
    return {_key(label): i for i, label in reversed(list(enumerate(labels)))}


# Labels


def read_label(text: str, labels: Sequence[str], rule: LabelRule = "strict") -> Found[int]:
    """Which of the labels a text gives, as an index.

    `strict`, in this order: the label is all there is (`label`), but for punctuation and words such as "Passage" or
    "The final answer is:" (`lead_in`); or exactly one label is stated after "Answer:" (`answer`), alone on the first
    or last line (`own_line`), before a dash or, for words, a comma or the end of a sentence (`explained`), or in a
    sentence such as "Passage C is the most relevant" (`sentence`). Labels of one letter in prose must be capitals, and
    after a label a colon explains nothing: that is how passages are quoted.

    As ielab/llm-rankers at b36517b reads labels of one letter: `last_character` (setwise, T5), `exact` (pairwise, T5)
    and `whole` (the whole text, in upper case; llama).
    """
    if rule != "strict":
        stated = text.removeprefix(" ")
        if rule != "exact":
            stated = text.strip()[-1:] if rule == "last_character" else text.strip().upper()
        return Found(labels.index(stated), rule) if stated in labels else Found(None, "no_label")
    answer, why_not = _answer(text)
    if not answer:
        return Found(None, why_not)
    indices = _indices(labels)
    only = _only_label(answer, indices)
    if only.value is not None or len(answer) > LONGEST_EXPLANATION or not indices:
        return only
    for form, named in _statements(answer, tuple(labels), indices):
        if named:
            return Found(min(named), form) if len(named) == 1 else Found(None, "ambiguous")
    return Found(None, "no_label")


LONGEST_EXPLANATION = 20_000
"""Characters: in a longer text, a label that is not all there is is not looked for."""

LONGEST_LABEL = 200


def _only_label(text: str, indices: Mapping[str, int]) -> Found[int]:
    """The label that a text is, with nothing around it but punctuation and a lead-in."""
    text, form, article = text.strip(SPACES), "label", False
    for _ in range(5):
        if len(text) > LONGEST_LABEL:
            break
        for stated in (text, text.lstrip(BEFORE).rstrip(AFTER)):
            if _key(stated) in indices and not (article and len(stated) == 1 and stated.islower()):
                return Found(indices[_key(stated)], form)
        text = text.lstrip(BEFORE).rstrip(AFTER)
        lead_in = LEAD_IN.match(text)
        if lead_in is None:
            break
        article = lead_in["verb"] is not None and lead_in["colon"] is None  # "The passage is a"
        text, form = text[lead_in.end() :].strip(SPACES), "lead_in"
    return Found(None, "no_label")


@lru_cache(maxsize=64)
def _statement_patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """How one of the labels is stated: as the answer, before an explanation, in a sentence."""
    words = any(len(label) > 1 and not label.isdigit() for label in labels)
    longest_first = sorted(labels, key=len, reverse=True)
    one = "|".join(r"\s+".join(map(re.escape, label.split())) for label in longest_first)
    label = rf"((?i:{one}))(?!\w)" if words else rf"({one})(?!\w)"
    opened, closed = r"[\[(\"'*_`]{0,4}", r"[\])\"'*_`]{0,4}"
    shown = rf"{opened}(?:{NOUN}\s+)?{opened}{label}{closed}"
    end = r"(?=\s*(?:\Z|\n|[.;!](?!\w)|,?\s+(?i:because|since|as|for|to\s+the\s+query)\b))"
    dash = r"\s+[-\u2013\u2014]\s+(?![0-9])"
    if words:
        comma = (
            rf",(?!\s*(?:(?i:or|and|nor|not|but)\s+)?{opened}(?i:{one})(?!\w))\s"  # "Yes, no" and "Yes, or no" are two
        )
        end = rf"(?:{end}|(?={comma}))"
        explained = rf"^\s*{shown}(?:{dash}|[.;!]\s+|\s*\(|{comma})"
        sentence = rf"\b(?:{NOUN}|(?i:text))\s+(?i:is)\s+{opened}{label}{closed}{end}"
    else:
        explained = rf"^\s*{shown}{dash}"
        most = r"(?i:(?:most|more)\s+relevant(?:\s+(?:passage|document|one|text))?(?:\s+to\s+the\s+query)?\s+is:?)"
        better = (
            r"(?i:is\s+(?:clearly\s+|by\s+far\s+)?(?:the\s+)?(?:most|more|best)\b(?!\s+(?:un)?likely|\s+irrelevant))"
        )
        sentence = rf"\b{most}\s+{shown}{end}|(?:\b{NOUN}\s+{opened}|\[){label}{closed}\s+{better}"
    answer = rf"\b(?i:(?:answer|output|verdict)(?:\s+is)?\s*[:=]|(?:answer|verdict)\s+is)\**\s*{shown}{end}"
    return re.compile(answer), re.compile(explained, re.MULTILINE), re.compile(sentence)


def _statements(text: str, labels: tuple[str, ...], indices: Mapping[str, int]) -> Iterator[tuple[str, set[int]]]:
    """Labels that are stated in a text with more in it: first what is called the answer; then all, by form."""

    def named(stated: Iterable[str]) -> set[int]:
        return {indices[_key(label)] for label in stated if _key(label) in indices}

    answer, explained, sentence = _statement_patterns(labels)
    yield "answer", named(answer.findall(text))
    lines = [_only_label(line, indices).value for line in text.split("\n") if line.strip(SPACES)]
    rests = [text[match.end() :].partition("\n")[0] for match in explained.finditer(text)]  # "No. Yes"
    in_sentences = named(label for match in sentence.finditer(text) for label in match.groups() if label)
    stated = {index for index in (*lines, *(_only_label(rest, indices).value for rest in rests)) if index is not None}
    stated |= named(explained.findall(text)) | in_sentences
    if lines[0] is not None or lines[-1] is not None:
        yield "own_line", stated
    if explained.match(text):
        yield "explained", stated
    if in_sentences:
        yield "sentence", stated


# Orders


def read_permutation(text: str, labels: Sequence[str], rule: PermutationRule = "strict") -> Found[tuple[int, ...]]:
    """The order that a text gives to documents with these labels (numbers or letters): indices, best first.

    `strict`: labels one after the other with > between them, in brackets or after "Passage" (`chain`; `mixed_chain`
    where a bracket was lost, "11] > [12]"); the same bare and on a line of its own (`bare_chain`); marked labels with
    commas, blanks or new lines between them on lines of their own (`list`), or numbered (`numbered_list`); bare labels
    that are all there is (`comma_list`); a label that is all there is (`single`). A = counts as >, the order is kept.

    Of several, the one that names the most documents is read: an example quoted from the prompt, "[1] > [2]", is
    short, and the answer was to name all. Of equally long ones the last: what is said last holds.

    `digits`: every number anywhere in the raw text, as RankGPT's code reads it; a text without any keeps the order.
    Repeated and out-of-range labels are dropped, missing ones appended in the order presented.
    """
    if rule == "digits":
        positions = {str(i + 1): i for i in range(len(labels))}
        numbers = (number.lstrip("0") for number in re.findall("[0-9]+", text))
        return Found(_completed([positions[number] for number in numbers if number in positions], len(labels)), rule)
    runs, why_not = _orders(text, tuple(labels))
    best = max(runs, key=lambda run: (len(run.named), run.end), default=None)
    return _reading(best, why_not, len(labels), len(labels))


def read_selection(text: str, labels: Sequence[str], limit: int) -> Found[tuple[int, ...]]:
    """The `limit` documents that a text selects: indices in the order named (TourRank, arXiv:2406.11678).

    The last labels that stand on lines of their own count, as in "Document 3, ..., Document 1", or the last chain of
    marked labels. Repeated and out-of-range labels are dropped; more than `limit` are cut; where fewer are named, the
    first of the others in the order presented follow (as llm4ranking reads it). Forms as for `read_permutation`.
    """
    runs, why_not = _orders(text, tuple(labels), "selection")
    last = max(runs, key=lambda run: (bool(run.named), run.end), default=None)
    return _reading(last, why_not, len(labels), max(limit, 0))


def _orders(text: str, labels: tuple[str, ...], sought: Joint = "any") -> tuple[list[_Run], str]:
    """Return all that may be the order or the selection that a text gives, and why there is none."""
    answer, why_not = _answer(text)
    answer = _end(answer, LONGEST_ORDER).strip(SPACES)
    items = _items(answer, labels)
    runs = [run for run in _joined(answer, items, "chain") if _is_order(answer, run, "chain")]
    runs += _numbered_lines(answer, labels)
    runs += [run for run in _joined(answer, items, "any") if _is_order(answer, run, sought)]
    if sought == "selection":  # a label alone is one of several lines, or all there is
        lines = _joined(answer, items, sought)
        runs = [run for run in lines if run.form != "single" and _is_order(answer, run, sought)] + runs
    return runs, "prose" if answer else why_not


def _reading(run: _Run | None, why_not: str, docs: int, limit: int) -> Found[tuple[int, ...]]:
    if run is None:
        return Found(None, why_not)
    return Found(_completed(run.named, docs)[:limit], run.form) if run.named else Found(None, "out_of_range")


def _completed(stated: Sequence[int], docs: int) -> tuple[int, ...]:
    """The stated indices without repeats, then the others in the order presented."""
    return tuple(dict.fromkeys((*stated, *range(docs))))


def _end(text: str, longest: int) -> str:
    """The last so many characters of a text, from a blank on: half a number is none."""
    return text if len(text) <= longest else re.sub(r"\A\S+", "", text[-longest:])


LONGEST_ORDER = 50_000
"""Characters: of a longer text only the end is read for an order. Two hundred labels take 2,000."""

LONGEST_RATINGS = 200_000
"""Characters: of a longer text only the end is read for ratings, which may be explained one by one."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A label in a text; `index` is None where no document has it. It is bare without a bracket or a noun."""

    start: int
    end: int
    index: int | None
    style: Literal["marked", "half", "bare"]


@dataclass(frozen=True, slots=True)
class _Run:
    """Labels one after the other, from `start` to `end` in the text, and the valid ones among them, without repeats."""

    start: int
    end: int
    marked: int
    named: tuple[int, ...]
    form: str


@lru_cache(maxsize=64)
def _label_pattern(labels: tuple[str, ...]) -> str:
    """Labels of the kind that these are, of documents presented or not."""
    if all(label.isascii() and label.isdigit() for label in labels):
        return "[0-9]++"
    if all(label.isascii() and label.isalpha() and len(label) == 1 for label in labels):
        return "[A-Za-z]"
    return "(?i:" + "|".join(map(re.escape, sorted(labels, key=len, reverse=True))) + ")"


@lru_cache(maxsize=64)
def _item_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    one = _label_pattern(labels)
    return re.compile(
        rf"(?<![\w.])[0-9]{{1,4}}[.)][*_]{{0,3}}[ \t]++(?=[*_]{{0,3}}(?:\[|{NOUN}))|"  # the number of a list's line
        rf"^[ \t]*+[0-9]{{1,4}}[.)][ \t]++(?={one}[ \t]*+$)|"
        rf"\[[ ]{{0,3}}(?:{NOUN}[ _#:]{{0,3}})?({one})[ ]{{0,3}}\]|"
        rf"(?<![^\W_]){NOUN}[ _#:]{{0,3}}(?:\[({one})\]|({one}))(?!\w)|"
        rf"(?<![\w.$\u20ac\xa3-])({one})(?![\w%]|\.\w)(\])?",
        re.MULTILINE,
    )


def _items(text: str, labels: tuple[str, ...]) -> list[_Item]:
    """All labels in a text, in prose or not."""
    indices = _indices(labels)
    items = []
    for match in _item_pattern(labels).finditer(text):
        bracketed, after_noun, after_noun_bare, bare, half = match.groups()
        stated = bracketed or after_noun or after_noun_bare or bare
        if stated is None or (bare and match.end() == len(text) and text[match.start() - 1 : match.start()] == "["):
            continue  # the number of a line, or a label that was cut off: "[1"
        style: Literal["marked", "half", "bare"] = "half" if half else "bare" if bare else "marked"
        items.append(_Item(match.start(), match.end(), indices.get(_key(stated)), style))
    return items


Joint = Literal["any", "chain", "selection"]
"""What may stand between labels: any separator; > or = only; any on one line, "..." too, as TourRank writes them.

In an order "..." joins nothing: "[1] > [2] > ... > [20]" does not rank 20 third.
"""


def _joined(text: str, items: Sequence[_Item], joint: Joint) -> Iterator[_Run]:
    """The longest runs of labels with nothing between them but separators."""
    run: list[_Item] = []
    gaps: list[str] = []
    for item in items:
        if run:
            gap = text[run[-1].end : item.start]
            if _separates(gap, run[-1], item, joint):
                gaps.append(gap)
            else:
                yield _run(text, run, gaps)
                run, gaps = [], []
        run.append(item)
    if run:
        yield _run(text, run, gaps)


def _separates(gap: str, left: _Item, right: _Item, joint: Joint) -> bool:
    ranks = STRONGER.search(gap) is not None
    if "<" in gap.partition(">")[0]:  # "[1] < [2]" says the contrary; "<1>, <2>" does not
        return False
    if not ranks and (joint == "chain" or (left.style == "marked") != (right.style == "marked")):
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
    """Return labels one after the other as what they are: `prose` where columns or counting down make it unclear."""
    if not gaps:  # as most labels in long texts, so nothing is looked for in vain
        return _run_of(items, "single")
    marked = [item for item in items if item.style == "marked"]
    numbers = [gap.strip(BETWEEN)[:-1] for gap in gaps if LIST_NUMBER.fullmatch(gap.strip(BETWEEN))]
    if numbers and marked:  # the others are numbers of lines: "1. [14] > 2. [15] > 3"
        items = marked
    if len(items) == 1:
        form = "single"
    elif numbers:
        first = re.findall(r"([0-9]{1,4})[.)]\W*\Z", text[max(0, items[0].start - 9) : items[0].start])
        ranks = [int(number) for number in first + numbers]
        form = "numbered_list" if ranks == sorted(ranks) else "prose"
    elif any(STRONGER.search(gap if marked else gap.replace("=", "")) for gap in gaps):
        form = "bare_chain" if not marked else "chain" if len(marked) == len(items) else "mixed_chain"
    elif len({"\n" in gap and not gap.strip() for gap in gaps}) > 1:
        form = "prose"  # lines of several labels: the first may be a rank
    else:
        form = "list" if marked else "comma_list"  # "3 = 2" ranks nothing, unless it is all there is
    return _run_of(items, form)


def _run_of(items: Sequence[_Item], form: str) -> _Run:
    named = tuple(dict.fromkeys(item.index for item in items if item.index is not None))
    return _Run(items[0].start, items[-1].end, sum(item.style == "marked" for item in items), named, form)


def _is_order(text: str, run: _Run, joint: Joint) -> bool:
    """Return whether labels one after the other are an order, and not a mention."""
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


def _numbered_lines(text: str, labels: tuple[str, ...]) -> Iterator[_Run]:
    """Return lists of lines such as "1. [3] - explains it" or "| 1 | [3] | explains it |", numbered from 1."""
    one = _label_pattern(labels)
    line = re.compile(
        rf"^[ \t|*]*+([0-9]{{1,4}})(?:[.)][*_]{{0,3}}[ \t]++|[ \t]*+\|[ \t]*+)"
        rf"[*_]{{0,3}}(?:\[(?:{NOUN}[ ]?)?({one})\]|{NOUN}[ ]?\[?({one})\]?)[*_]{{0,3}}"
        r"(?=[ \t]*+(?:$|[-\u2013\u2014:(|]))",
        re.MULTILINE,
    )
    indices = _indices(labels)
    lists: list[list[_Item]] = [[]]
    for match in line.finditer(text):
        if int(match[1]) != len(lists[-1]) + 1:
            lists.append([])
        if int(match[1]) == len(lists[-1]) + 1:
            index = indices.get(_key(match[2] or match[3]))
            lists[-1].append(_Item(match.start(), match.end(), index, "marked"))
    return (_run_of(items, "numbered_list") for items in lists if len(items) > 1)


# Ratings

NUMBER = r"[-+]?(?:[0-9]++(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+"
OBJECT = re.compile(r"\{[^{}]*+(?:\}|\Z)")
FINAL = re.compile(rf"(?i:final)[^:=]{{0,40}}[:=]\**(?:[^=;]{{0,99}}=)?[ ]{{0,3}}\**({NUMBER})(?![\w%]|\.\w)")


def read_ratings(text: str, labels: Sequence[str]) -> Found[tuple[float | None, ...]]:
    """The score that a text gives to each document, None where it gives none; finite, on the scale that was asked for.

    A JSON object, {"[1]": 8, …} (`json`; GroupRank): of several the one that rates the most documents, of equal ones
    the last. Else "Doc: 1, Relevance: 7" (`relevance`; REBEL), where a final score in the line comes before the
    relevance. Else "[1]: 8" or, as a whole line, "1: 8" (`pairs`). Pairs that are malformed, that name no document or
    whose number is infinite are passed over; of several scores of one document the last holds. "8/10" is 8.
    """
    answer, why_not = _answer(text)
    if not answer:
        return Found(None, why_not)
    indices, answer = _indices(labels), _end(answer, LONGEST_RATINGS)
    in_json, relevance, marked, bare = _rating_patterns(tuple(labels))
    objects = [_scores(in_json.findall(found[0]), indices) for found in OBJECT.finditer(answer)]
    lines = [*relevance.finditer(answer)]
    finals = []
    for match, following in zip_longest(lines, lines[1:]):
        rest = answer[match.end() : min(match.end() + 400, following.start() if following else len(answer))]
        final = FINAL.search(rest.partition("\n")[0])
        finals.append((match[1], final[1] if final else match[2]))
    pairs = [(a or b, number) for a, b, number in marked.findall(answer)] + bare.findall(answer)
    for form, scores in (
        ("json", max(reversed(objects), key=len, default={})),
        ("relevance", _scores(finals, indices)),
        ("pairs", _scores(pairs, indices)),
    ):
        if scores:
            return Found(tuple(scores.get(i) for i in range(len(labels))), form)
    return Found(None, "prose")


@lru_cache(maxsize=64)
def _rating_patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """A label and a number: in JSON, as REBEL writes them, with the label marked, with a bare label on a line."""
    one = _label_pattern(labels)
    number = rf"({NUMBER})(?:[ ]?/[ ]?[0-9]++)?+"
    equals = r"\**[ ]{0,3}[:=]\**[ ]{0,3}"
    noun = rf"(?:{NOUN}[ _#:]{{0,3}})?"
    json = rf"[\"']\[?{noun}\[?({one})\]?[\"'][ \t\r\n]{{0,9}}:[ \t\r\n]{{0,9}}[\"']?{number}(?=[\"']?\s*+[,}}])"
    relevance = (
        rf"(?<![^\W_]){NOUN}[ ]{{0,3}}[:#]?[ ]{{0,3}}\[?({one})\]?[\s,;|*\u2013\u2014-]{{1,8}}"
        rf"(?i:relevance(?:[ _]score)?){equals}{number}(?![\w%]|\.\w)"
    )
    end = r"(?=[*_]{0,3}[ \t]*+(?:[,;}\r\n]|\.?\s*+\Z|\.\s))"
    marked = rf"(?:\[{noun}({one})\]|(?<![^\W_]){NOUN}[ _#]{{0,3}}\[?({one})\]?){equals}{number}{end}"
    bare = rf"^[ \t*]*+(?:-[ \t]++)?({one}){equals}{number}[ \t,;.*]*+$"
    return tuple(re.compile(pattern, re.MULTILINE) for pattern in (json, relevance, marked, bare))


def _scores(pairs: Iterable[tuple[str, str]], indices: Mapping[str, int]) -> dict[int, float]:
    """Finite numbers by the index of their label."""
    stated = ((indices.get(_key(label)), float(number)) for label, number in pairs)
    return {index: score for index, score in stated if index is not None and math.isfinite(score)}
