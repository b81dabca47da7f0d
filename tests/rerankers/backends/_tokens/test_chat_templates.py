"""Chat templates: one clock, nothing left out, and every failure of theirs in one line."""

import logging
from pathlib import Path

import pytest
from r2llm.rerankers.backends._tokens import chat_templates
from r2llm.rerankers.backends._tokens.chat_templates import ChatTemplate, TemplateOptions
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.prompts.template import Message

EACH = "{% for m in messages %}<{{ m['role'] }}>CONTENT{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
"""All turns, one after the other; CONTENT stands for how a turn's content is written."""

PLAIN = EACH.replace("CONTENT", "{{ m['content'] }}")
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user') }}{% endif %}{% endfor %}" + PLAIN
)
RANKED = "{% for m in messages %}{% if m['role'] in ('query', 'document') %}{{ m.content }} {% endif %}{% endfor %}"

SYSTEM, USER = Message(role="system", content="You rank passages."), Message(role="user", content="red moon\n\nmoons?")
ASSISTANT = Message(role="assistant", content="Okay.")


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def made(tokenizer, tmp_path: Path):
    """A template of that text, in a file that the config names."""

    def make(text: str, **variables) -> ChatTemplate:
        path = tmp_path / "chat.jinja"
        path.write_text(text, encoding="utf-8")
        options = TemplateOptions(chat_template=str(path), chat_template_kwargs=variables)
        found = chat_templates.chat_template(tokenizer, options)
        assert found is not None
        return found

    return make


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("{{ strftime_now('%Y-%m-%d') }}", "2024-07-26"),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ strftime_now(format='%A, %B %-d, %Y %H:%M:%S') }}", "Friday, July 26, 2024 00:00:00"),
        ("{%- set year = strftime_now('%Y')|int - 1 %}{{ year }}", "2023"),
        ("{{ strftime_now('%d %b %Y') if strftime_now is defined else 'no clock' }}", "26 Jul 2024"),
        ("{%- macro day() %}{{ strftime_now('%d.%m.%y') }}{% endmacro %}{{ day() }}", "26.07.24"),
        ("{{ date_string }}", "26 Jul 2024"),
    ],
)
def test_every_template_is_rendered_on_one_day(made, asked: str, written: str) -> None:
    assert made(asked + PLAIN).render([USER]) == f"{written}<user>red moon\n\nmoons?<a>"


def test_a_rendering_that_changes_by_itself_is_refused(made) -> None:
    with pytest.raises(InputError, match="renders one conversation differently each time"):
        _ = made(PLAIN + "{% for n in range(40) %}{{ [1, 2, 3, 4, 5]|random }}{% endfor %}").digest


def test_a_template_that_never_ends_is_refused(made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "SECONDS", 0.2)
    # It ends after a few seconds: the thread that renders it lives on until then.
    slow = "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}"
    with pytest.raises(InputError, match=r"has not rendered four short conversations in 0\.2 s"):
        _ = made(slow + PLAIN).digest


def test_the_digest_follows_the_text_the_variables_and_what_comes_of_them(made, tokenizer) -> None:
    plain = made(PLAIN).digest
    assert made(PLAIN).digest == plain
    assert made(PLAIN, enable_thinking=False).digest != plain
    assert made(PLAIN + "{# #}").digest != plain
    marked = made(PLAIN + "{{ bos_token }}").digest
    before, tokenizer.bos_token = tokenizer.bos_token, tokenizer.eos_token
    try:
        assert made(PLAIN + "{{ bos_token }}").digest != marked
    finally:
        tokenizer.bos_token = before


def test_variables_reach_the_template(made) -> None:
    thinking = PLAIN + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    assert made(thinking).render([USER]).endswith("<a>")
    assert made(thinking, enable_thinking=False).render([USER]).endswith("<a><think></think>")
    assert made(PLAIN, add_generation_prompt=False).render([USER]).endswith("moons?")
    with pytest.raises(InputError, match="tokenize is no variable of a chat template"):
        made(PLAIN, tokenize=True)


@pytest.mark.parametrize(
    "content",
    [
        "{{ m['content'] | trim }}",
        "{{ m['content'].split() | join(' ') }}",
        "{{ m['content'] | replace('\\n', '') }}",
        "{{ m['content'] | tojson }}",
        "{{ m['content'] | tojson(ensure_ascii=true) }}",
        "{{ m['content'] | e }}",
        "{{ m['content'] | upper }}",
        "{{ m['content'] | indent(4) }}",
        "{{ m | tojson }}",
    ],
)
def test_white_space_case_and_escapes_are_the_templates_own(made, content: str) -> None:
    text = " Straße & 'a' \"b\" <c>\n\n\t1 > 2\\n é日本語 {x}\u00a0end. "
    assert made(EACH.replace("CONTENT", content)).render([Message(role="user", content=text)])
    assert made(EACH.replace("CONTENT", content)).render([SYSTEM, USER, ASSISTANT, USER])


@pytest.mark.parametrize(
    ("text", "messages", "told"),
    [
        (RANKED, [USER], r"what the user turn says; name a prompt with the roles that it reads"),
        ("Judge.{{ messages[-1]['content'] }}", [USER, ASSISTANT, USER], "what the user turn says"),
        ("{{ messages[0].content }}", [USER, ASSISTANT], "what the assistant turn says"),
        (PLAIN.replace("m['content']", "m['content'][:9]"), [USER], "what the user turn says"),
        (PLAIN.replace("m['content']", "m['content'][:40]"), [Message(role="user", content="moon " * 20)], "moon moon"),
        ("{{ messages | length }}", [SYSTEM, USER], "what the system turn says"),
    ],
)
def test_a_turn_that_does_not_reach_the_model_is_an_error(made, text: str, messages, told: str) -> None:
    with pytest.raises(InputError, match=rf"^the chat template /.*chat\.jinja leaves out or changes .*{told}") as error:
        made(text).render(messages)
    assert "\n" not in str(error.value)


def test_a_template_that_reads_roles_of_its_own_is_shown_them(made) -> None:
    turns = [Message(role="query", content="moons?"), Message(role="document", content="red moon")]
    assert made(RANKED).render(turns) == "moons? red moon "
    read = "{% for m in messages %}{% if m['role'] == 'query' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(InputError, match=r"the document turn says; name a prompt with the roles .* \(query\)"):
        made(read).render(turns)


@pytest.mark.parametrize(
    "text",
    [
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN,
        ALTERNATE,
        EACH.replace("CONTENT", "{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}"),
    ],
)
def test_a_system_turn_that_has_no_place_goes_before_the_first_user_turn(made, text: str, caplog) -> None:
    template = made(text)
    assert template.folds_system_turns
    with caplog.at_level(logging.WARNING):
        shown = [template.render([SYSTEM, USER, ASSISTANT, USER]) for _ in range(2)]
    assert shown[0] == shown[1]
    assert "You rank passages.\n\nred moon\n\nmoons?" in shown[0]
    assert shown[0].index("You rank") > shown[0].index("<user>")
    assert len([record for record in caplog.records if "no place for a system turn" in record.getMessage()]) == 1
    assert template.render([USER]) == "<user>red moon\n\nmoons?<a>"


def test_a_system_turn_with_a_place_stays_there(made) -> None:
    template = made(PLAIN)
    assert not template.folds_system_turns
    assert template.render([SYSTEM, USER]).startswith("<system>You rank passages.<user>")
    # As Mistral's: before the last user turn.
    last = (
        "{% if messages[0]['role'] == 'system' %}{% set system, turns = messages[0]['content'], messages[1:] %}"
        "{% else %}{% set system, turns = '', messages %}{% endif %}"
        "{% for m in turns %}[{{ system + ' ' if loop.last else '' }}{{ m['content'] }}]{% endfor %}"
    )
    assert not made(last).folds_system_turns


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{% for m in messages %}", r"\(line 1\)"),
        ("\n\n{{ messages | nothing }}", r"No filter named 'nothing'.*\(line 3\)"),
        ("{{ nobody.name }}" + PLAIN, "'nobody' is undefined"),
        ("{{ now() }}" + PLAIN, "'now' is undefined"),
        ("{{ datetime.now() }}" + PLAIN, "'datetime' is undefined"),
        ("{{ raise_exception('only\nimages') }}", "only images"),
        ("{{ 1 / 0 }}" + PLAIN, "division by zero"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}" + PLAIN, "recursion"),
        ("{% for n in range(10 ** 9) %}{% endfor %}" + PLAIN, "range"),
        ("{{ messages[0].__class__.__mro__ }}" + PLAIN, "unsafe"),
        ("{% include 'other' %}" + PLAIN, "loader"),
    ],
)
def test_whatever_a_template_raises_is_one_line(made, text: str, told: str) -> None:
    with pytest.raises(
        InputError, match=rf"(?i)^the chat template /.*chat\.jinja fails on turns of user: .*{told}"
    ) as error:
        made(text).render([USER])
    assert "\n" not in str(error.value)
    assert made(text).digest


def test_two_user_turns_that_are_refused_are_an_error(made) -> None:
    with pytest.raises(InputError, match="fails on turns of user, user: Conversation roles must alternate"):
        made(ALTERNATE).render([USER, USER])


def test_none_of_several_or_a_file(tokenizer, tmp_path: Path, caplog) -> None:
    assert chat_templates.chat_template(tokenizer, TemplateOptions(chat_template="none")) is None
    own, tokenizer.chat_template = tokenizer.chat_template, {"default": PLAIN, "rag": "rag " + PLAIN}
    try:
        default = chat_templates.chat_template(tokenizer, TemplateOptions())
        rag = chat_templates.chat_template(tokenizer, TemplateOptions(chat_template="rag"))
        assert default is not None
        assert rag is not None
        assert rag.render([USER]) == "rag " + default.render([USER])
        with pytest.raises(InputError, match=r"model\.chat_template: tool cannot be read: .*own are default, rag"):
            chat_templates.chat_template(tokenizer, TemplateOptions(chat_template="tool"))
        tokenizer.chat_template = {"rag": PLAIN, "tool_use": PLAIN}
        with pytest.raises(InputError, match=r"name one with model\.chat_template \(rag, tool_use\)"):
            chat_templates.chat_template(tokenizer, TemplateOptions())
        tokenizer.chat_template = None
        with caplog.at_level(logging.WARNING):
            variables = TemplateOptions(chat_template_kwargs={"enable_thinking": False})
            assert chat_templates.chat_template(tokenizer, variables) is None
        assert "model.chat_template_kwargs is not used" in caplog.text
    finally:
        tokenizer.chat_template = own
    (tmp_path / "latin.jinja").write_bytes(b"\xff")
    for path in ("latin.jinja", "gone.jinja", "."):
        with pytest.raises(InputError, match=rf"model\.chat_template: .*{path} cannot be read: "):
            chat_templates.chat_template(tokenizer, TemplateOptions(chat_template=str(tmp_path / path)))
