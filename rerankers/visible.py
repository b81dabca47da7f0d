"""Data on a terminal: characters that would steer it, or that nobody would see, are shown as escapes."""

import unicodedata

STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories to escape: controls, formats (bidirectional, zero width, tags), surrogates, line separators."""

JOINERS = "\u200c\u200d"  # formats that Persian, Indic scripts and emoji are written with


def visible(text: str, *, keep: str = "") -> str:
    r"""Return `text` with an escape character as `\x1b`; `keep` has controls to leave, such as line ends."""
    if text.isprintable():
        return text
    left = JOINERS + keep
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in STEERING and char not in left else char
        for char in text
    )
