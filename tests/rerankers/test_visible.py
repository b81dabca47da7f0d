"""Characters that steer a terminal, or that nobody sees, are shown as escapes; text of any language stays as it is."""

import pytest
from r2llm.rerankers.errors import BackendError, InputError, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m \x85 \x7f \x00", r"\x9b31m \x85 \x7f \x00"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202eevil\u202c \u2066x\u2069", r"\u202eevil\u202c \u2066x\u2069"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("d\u200b1 \ufeffd \u200e \U000e0041", r"d\u200b1 \ufeffd \u200e \U000e0041"),
        ("\ud800", r"\ud800"),
        ("[bold]d1[/bold] :smile: \\", "[bold]d1[/bold] :smile: \\"),
    ],
)
def test_what_steers_a_terminal_is_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize("text", ["naïve ± → 海は塩辛い　か", "\u0645\u06cc\u200c\u062e", "👩\u200d🔬", "a\u00a0b", ""])
def test_text_of_any_language_stays(text: str) -> None:
    assert visible(text) == text


def test_line_ends_that_are_to_be_kept_are_kept() -> None:
    assert visible("a\n\tb\r\x1b", keep="\n\t") == "a\n\tb\\r\\x1b"


@pytest.mark.parametrize("error", [InputError, BackendError])
def test_an_error_is_one_line(error: type[Exception]) -> None:
    assert str(error("no document 'd\x1b[2J'\nin\u2028docs.jsonl")) == r"no document 'd\x1b[2J'\nin\u2028docs.jsonl"
