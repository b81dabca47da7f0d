"""Prices: what tokens cost, where prices stand, and what is wrong with a file of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from r2llm.rerankers import prices
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.prices import Price, price_of


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text("small: {prompt: 0.15, completion: 0.6}\norg/large: {prompt: 2, completion: 8}\n")
    return path


def test_prices_are_per_million_tokens() -> None:
    assert Price(prompt=0.15, completion=0.6).usd(2_000_000, 500_000) == pytest.approx(0.6)


def test_a_price_in_the_config() -> None:
    assert price_of("any", {"prompt": 1, "completion": 2.5}) == Price(prompt=1, completion=2.5)


def test_a_file_of_prices_by_model_name(listed: Path) -> None:
    assert price_of("org/large", str(listed)) == Price(prompt=2, completion=8)


def test_the_users_own_file_need_not_be_there_nor_name_the_model(listed: Path, monkeypatch) -> None:
    monkeypatch.setattr(prices, "user_file", lambda: listed)
    assert price_of("small", None) == Price(prompt=0.15, completion=0.6)
    assert price_of("other", None) is None
    listed.write_text("")
    assert price_of("small", None) is None
    listed.unlink()
    assert price_of("small", None) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: {prompt: 1, completion: 2}\nb: {prompt: 1}", ": b: completion: Field required"),
        ("b: {prompt: x, completion: 2}", ": b: prompt: should be a valid number"),
        ("b: {prompt: -1, completion: 2}", ": b: prompt: should be greater than or equal to 0"),
        ("b: {prompt: 1, completion: 2, discount: 3}", ": b: discount: Extra inputs are not permitted"),
        ("b: 3", ": b: should be a mapping of keys to values"),
        ("- b", ": expected models by name"),
        ("b: [1", "line 1, column 6"),
        ("b: !!python/object:x {}", ": could not determine a constructor"),
        ("bb: {prompt: 1, completion: 2}", "names a file that has no price of b; did you mean 'bb'?"),
        ("", "names a file that has no price of b; a price is {prompt: …, completion: …}, in US dollars per million"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as raised:
        price_of("b", str(path))
    assert str(raised.value).startswith(str(path))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_price_in_the_config_and_a_missing_file() -> None:
    with pytest.raises(InputError, match=r"^model\.prices: completion: Field required; a price is \{prompt: …"):
        price_of("b", {"prompt": 1})
    with pytest.raises(InputError, match=r"^model\.prices: nowhere\.yaml: No such file or directory; a price is"):
        price_of("b", "nowhere.yaml")
