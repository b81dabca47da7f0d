"""What a person sees while a job lasts, and tables on a terminal."""

from __future__ import annotations

import json
import sys
import time

import pytest
from r2llm.cli import console

ID = "msmarco_passage_08_1234567890_and_more"


def test_off_a_terminal_progress_is_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "MINUTE", 0.02)
    with console.listener(quiet=False).task("reranking", None) as advance:
        advance(1234, "2 of 5 queries\x1b", total=3000)
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert 1 < len(lines) < 6
    assert set(lines) == {"reranking: 1,234 of 3,000, 2 of 5 queries\\x1b, 0 min"}


def test_a_short_job_and_a_quiet_one_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.listener(quiet=False).task("searching", 3) as advance:
        advance(3)
    monkeypatch.setattr(console, "MINUTE", 0.01)
    with console.listener(quiet=True).task("searching", 3) as advance:
        advance(3)
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_identifiers_are_never_cut_and_texts_stand_at_the_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    answer = "a long answer " * 20
    rows = [["1", ID, "0.5", f"A={ID} B={ID}", answer], ["2", "d2", "0.25", "A=d2", "A"]]
    console.table("[bold]a title[/bold]", ["rank", "document", "score", "presented", "answer"], rows)
    printed = capsys.readouterr().out
    assert printed.count(ID) == 3
    assert "…" not in printed
    assert "[bold]a title[/bold]" in printed
    second = next(line for line in printed.splitlines() if " d2 " in line)
    assert f"d2{' ' * (len(ID) - 2)}" in second
    assert " 0.25 " in second
    assert " ".join(printed.split()).count("answer") >= 20


def test_json_is_valid_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.as_json({"scores": [float("nan"), float("-inf"), 0.5], "text": "\x1b\x7f\u2028\ud800"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == {"scores": [None, None, 0.5], "text": "\x1b\x7f\u2028\ud800"}
    assert "\x7f" not in printed


def test_without_colours_a_terminal_gets_no_control_sequences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    for value, plain in (("1", True), ("", False)):
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setenv("FORCE_COLOR", "" if plain else "1")
        console.table("a title", ["a", "b"], [["1", "2"]])
        with console.listener(quiet=False).task("reranking", 2) as advance:
            advance(1)
        printed = capsys.readouterr()
        assert ("\x1b" in printed.out + printed.err) is not plain
        assert "a title" in printed.out
