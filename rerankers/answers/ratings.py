"""Ratings: the score that a generated text gives to each document of a group."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest

from .labels import NOUN, Found, indices_of, key, like
from .thinking import plain_answer

LONGEST = 200_000  # characters: of a longer text only the end is read; ratings may be explained one by one
NUMBER = r"[-+]?(?:[0-9]++(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+"
OBJECT = re.compile(r"\{[^{}]*+(?:\}|\Z)")
RATINGS = "a score for each label: a JSON object, or lines such as 'Doc: 3, Relevance: 7' or '[3]: 7'"
FINAL = re.compile(rf"(?i:final)[^:=]{{0,40}}[:=]\**(?:[^=;]{{0,99}}=)?[ ]{{0,3}}\**({NUMBER})(?![\w%]|\.\w)")


def end_of(text: str, longest: int) -> str:
    """Return the last `longest` characters of a text, from a blank on: half a number is none."""
    return text if len(text) <= longest else re.sub(r"\A\S+", "", text[-longest:])


def read_number(text: str) -> Found[float]:
    """Return the number that a text is, and nothing else, if it is finite."""
    value = float(text) if re.fullmatch(NUMBER, text := text.strip()) else math.inf
    return Found(value, "number") if math.isfinite(value) else Found(None, "no_number")


def read_ratings(text: str, labels: Sequence[str]) -> Found[tuple[float | None, ...]]:
    """Return each document's score, finite and on the scale that was asked for, or None for one that has none.

    A JSON object, {"[1]": 8, …} (`json`; GroupRank): of several the one that rates the most documents, of equal ones
    the last. Else "Doc: 1, Relevance: 7" (`relevance`; REBEL), where a final score in the line comes before the
    relevance. Else "[1]: 8" or, as a whole line, "1: 8" (`pairs`). Pairs that are malformed, that name no document or
    whose number is infinite are passed over; of several scores of one document the last holds. "8/10" is 8.
    """
    answer, why_not = plain_answer(text)
    if not answer:
        return Found(None, why_not)
    indices, answer = indices_of(labels), end_of(answer, LONGEST)
    in_json, relevance, marked, bare = _patterns(tuple(labels))
    objects = [_scores(in_json.findall(match[0]), indices) for match in OBJECT.finditer(answer)]
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
def _patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Return patterns of a label and a number: in JSON, as REBEL writes them, with the label marked, bare on a line."""
    one = like(labels)
    number = rf"({NUMBER})(?:[ ]?/[ ]?[0-9]++)?+"
    equals = r"\**[ ]{0,3}[:=]\**[ ]{0,3}"
    noun = rf"(?:{NOUN}[ _#:]{{0,3}})?"
    json = rf"[\"']\[?{noun}\[?({one})\]{{0,2}}[\"'][ \t\r\n]{{0,9}}:[ \t\r\n]{{0,9}}[\"']?{number}(?=[\"']?\s*+[,}}])"
    relevance = (
        rf"(?<![^\W_]){NOUN}[ ]{{0,3}}[:#]?[ ]{{0,3}}\[?({one})\]?[\s,;|*\u2013\u2014-]{{1,8}}"
        rf"(?i:relevance(?:[ _]score)?){equals}{number}(?![\w%]|\.\w)"
    )
    end = r"(?=[*_]{0,3}[ \t]*+(?:[,;}\r\n]|\.?\s*+\Z|\.\s))"
    marked = rf"(?:\[{noun}({one})\]|(?<![^\W_]){NOUN}[ _#]{{0,3}}\[?({one})\]?){equals}{number}{end}"
    bare = rf"^[ \t*]*+(?:-[ \t]++)?({one}){equals}{number}[ \t,;.*]*+$"
    return tuple(re.compile(pattern, re.MULTILINE) for pattern in (json, relevance, marked, bare))


def _scores(pairs: Iterable[tuple[str, str]], indices: Mapping[str, int]) -> dict[int, float]:
    stated = ((indices.get(key(label)), float(number)) for label, number in pairs)
    return {index: score for index, score in stated if index is not None and math.isfinite(score)}
