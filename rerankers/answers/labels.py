"""Labels: what they look like in generated text, and the one that a text gives.

No reader raises or guesses: a text that does not say what was asked for gives no value, and a number or a letter in
prose says nothing. Running time is linear in the text's length, and no text becomes an integer, which int() refuses
to make of more than 4,300 digits.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Literal, TypeVar

from .thinking import SPACES, plain_answer

LabelRule = Literal["strict", "exact", "whole", "last_character"]
RULES: Mapping[str, str] = {
    "strict": "a label, with nothing around it but punctuation and words such as 'The answer is', or else the only one "
    "that is stated as the answer, on a line of its own, before an explanation or in a sentence that names the best",
    "exact": "a label and nothing else",
    "whole": "a label and nothing else, in any case",
    "last_character": "a label as the last character",
}
"""Rules of reading a label, in words."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A value with the form that it was read in, or None with the reason.

    Reasons: `empty`, `unfinished_thought`, `no_label`, `ambiguous`, `prose` (no form), `out_of_range` (no document).
    """

    value: T | None
    form: str


MARKS = "\"'`*_\u201c\u201d\u2018\u2019\xab\xbb()[]{}<>$\\"
BEFORE = SPACES + MARKS + ",;:#="
AFTER = SPACES + MARKS + ",;:.!="
NOUN = r"(?i:passage|document|doc)"
LEAD_IN = re.compile(
    r"(?:(?:the|my|so|thus|therefore)\b,?\s+)*(?:(?:final|best|correct|overall|sorted|(?:most|more)\s+relevant)\b[\s_]+)*"
    r"(?:passages?(?=[\"']?\s*[:=])|passage|sorted_passages|documents?(?=[\"']?\s*[:=])|document|doc|text|one|candidate|"
    r"answer|output|label|choice|option|result|response|judge?ment|relevance|rating|score|verdict|ranking|order)(?![^\W_])"
    r"(?:\s+(?:label|number|id|identifier|judge?ment|score|level))?(?:\s+to\s+the\s+query)?"
    r"(?P<verb>\s+(?:is|would\s+be|should\s+be)\b)?(?:[\"']?\s*(?P<colon>[:=]))?",
    re.IGNORECASE,
)
LONGEST_EXPLANATION = 20_000  # characters: in a longer text, only a label that is all there is is looked for
LONGEST_LABEL = 200


def key(label: str) -> str:
    """Return what makes two labels the same: case does not matter, nor do leading zeros."""
    if not label.isascii():  # the long s is no s
        return label
    return (label.lstrip("0") or "0") if label.isdigit() else " ".join(label.casefold().split())


def indices_of(labels: Sequence[str]) -> dict[str, int]:
    """Return each label's index by its key."""
    return {key(label): i for i, label in reversed(list(enumerate(labels)))}


@lru_cache(maxsize=64)
def like(labels: tuple[str, ...]) -> str:
    """Return a pattern of labels of the kind that these are, of documents presented or not."""
    if all(label.isascii() and label.isdigit() for label in labels):
        return "[0-9]++"
    if all(label.isascii() and label.isalpha() and len(label) == 1 for label in labels):
        return "[A-Za-z]"
    return "(?i:" + "|".join(map(re.escape, sorted(labels, key=len, reverse=True))) + ")"


def read_label(text: str, labels: Sequence[str], rule: LabelRule = "strict") -> Found[int]:
    """Return the index of the label that a text gives.

    `strict`, in this order: the label is all there is (`label`), but for punctuation and words such as "Passage" or
    "The final answer is:" (`lead_in`); or exactly one label is stated after "Answer:" (`answer`), alone on the first
    or last line (`own_line`), before a dash or, for words, a comma or the end of a sentence (`explained`; a colon
    quotes a passage), or in a sentence such as "Passage C is the most relevant" (`sentence`).

    The other rules are those of ielab/llm-rankers at b36517b for labels of one letter, in the raw text:
    `last_character` (setwise, T5), `exact` (pairwise, T5) and `whole` (llama; and of what a prompt's pattern captures).
    """
    if rule != "strict":
        if rule == "whole":
            index = indices_of(labels).get(key(text.strip()))
            return Found(index, "no_label" if index is None else rule)
        stated = text.removeprefix(" ") if rule == "exact" else text.strip()[-1:]
        return Found(labels.index(stated), rule) if stated in labels else Found(None, "no_label")
    answer, why_not = plain_answer(text)
    if not answer:
        return Found(None, why_not)
    indices = indices_of(labels)
    only = _only_label(answer, indices)
    if only.value is not None or len(answer) > LONGEST_EXPLANATION or not indices:
        return only
    form, named = _stated(answer, tuple(labels), indices)
    if len(named) == 1:
        return Found(min(named), form)
    return Found(None, "ambiguous" if named else "no_label")


def _only_label(text: str, indices: Mapping[str, int]) -> Found[int]:
    """Return the label that a text is, with nothing around it but punctuation and a lead-in."""
    text, form, article = text.strip(SPACES), "label", False
    for _ in range(5):
        if len(text) > LONGEST_LABEL:
            break
        for stated in (text, text.lstrip(BEFORE).rstrip(AFTER)):
            if key(stated) in indices and not (article and len(stated) == 1 and stated.islower()):
                return Found(indices[key(stated)], form)
        text = text.lstrip(BEFORE).rstrip(AFTER)
        lead_in = LEAD_IN.match(text)
        if lead_in is None:
            break
        article = lead_in["verb"] is not None and lead_in["colon"] is None  # "The passage is a"
        text, form = text[lead_in.end() :].strip(SPACES), "lead_in"
    return Found(None, "no_label")


@lru_cache(maxsize=64)
def _statement_patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return how one of the labels is stated: as the answer, before an explanation, in a sentence."""
    words = any(len(label) > 1 and not label.isdigit() for label in labels)
    longest_first = sorted(labels, key=len, reverse=True)
    one = "|".join(r"\s+".join(map(re.escape, label.split())) for label in longest_first)
    label = rf"((?i:{one}))(?!\w)" if words else rf"({one})(?!\w)"
    opened, closed = r"[\[(\"'*_`]{0,4}", r"[\])\"'*_`]{0,4}"
    shown = rf"{opened}(?:{NOUN}\s+)?{opened}{label}{closed}"
    end = r"(?=\s*(?:\Z|\n|[.;!](?!\w)|,?\s+(?i:because|since|as|for|to\s+the\s+query)\b))"
    dash = r"\s+[-\u2013\u2014]\s+(?![0-9])"
    if words:  # "Yes, no" and "Yes, or no" are two
        comma = rf",(?!\s*(?:(?i:or|and|nor|not|but)\s+)?{opened}(?i:{one})(?!\w))\s"
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


def _stated(text: str, labels: tuple[str, ...], indices: Mapping[str, int]) -> tuple[str, set[int]]:
    """Return the labels that a text with more in it calls the answer, or else all that it states, and the form."""

    def named(stated: Iterable[str]) -> set[int]:
        return {indices[key(label)] for label in stated if key(label) in indices}

    answer, explained, sentence = _statement_patterns(labels)
    if answers := named(answer.findall(text)):
        return "answer", answers
    lines = [_only_label(line, indices).value for line in text.split("\n") if line.strip(SPACES)]
    rests = [text[match.end() :].partition("\n")[0] for match in explained.finditer(text)]  # "No. Yes"
    in_sentences = named(label for match in sentence.finditer(text) for label in match.groups() if label)
    stated = {index for index in (*lines, *(_only_label(rest, indices).value for rest in rests)) if index is not None}
    stated |= named(explained.findall(text)) | in_sentences
    if lines[0] is not None or lines[-1] is not None:
        return "own_line", stated
    if explained.match(text):
        return "explained", stated
    return "sentence", stated if in_sentences else set()
