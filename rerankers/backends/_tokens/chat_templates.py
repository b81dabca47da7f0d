"""Chat templates: what makes a conversation one prompt, with a fixed clock, and whether all of it is in that prompt.

A template is a program that came with a model. It may write today's date, refuse a conversation, or leave turns out: a
prompt must not change with the day, and a model that is never shown the passages gives scores all the same.
"""

from __future__ import annotations

import hashlib
import html
import json
import logging
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from inspect import signature
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

from pydantic import Field, JsonValue

from ...errors import InputError
from ...marks import PathMark
from ...prompts.template import Message, folded
from ..base import ModelOptions

TODAY = datetime(2024, 7, 26)
"""The day that templates write; Llama 3's writes it too where it is told none."""

FORMATS = [f"%{flag}{letter}" for flag in ("-", "") for letter in "aAwdbBmyYHIpMSfjUWcxXzZGuVeFTDR"] + ["%%"]
"""The formats of `strftime`, the longer ones first."""

CLOCK = "{%- macro strftime_now(format) -%}{{ format"
CLOCK += "".join(f"|replace('{form}', '{TODAY.strftime(form)}')" for form in FORMATS) + " }}{%- endmacro -%}"
"""What goes before a template: the function by which it asks transformers for the date, answered for that day."""

SHAPES = [("user",), ("system", "user"), ("system", "user", "assistant", "user"), ("query", "document")]
"""The roles of the conversations whose prompts say what a template does."""

SAMPLE = "r2llm turn "
"""How the turns of those conversations begin."""

SECONDS = 20.0
"""A template that has not rendered a few short turns by then never will."""


class TemplateOptions(ModelOptions):
    """Keys of the `model` section that say how a conversation becomes a prompt."""

    chat_template: Annotated[str | None, PathMark("named file")] = Field(
        None,
        description="a Jinja file, the name of one of the model's several templates, or none: the prompt's turns one "
        "after the other; the model's own unless given",
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        {}, description="variables of the chat template, such as {enable_thinking: false}"
    )


class ChatTemplate:
    """A template and its variables."""

    def __init__(self, tokenizer: Any, source: str, name: str, variables: dict[str, JsonValue]) -> None:
        self.name = name
        self._tokenizer = tokenizer
        self._source = source
        self._variables = {"add_generation_prompt": True, "date_string": TODAY.strftime("%d %b %Y")} | variables
        self._given = variables
        self._folds: dict[tuple[str, ...], bool] = {}

    @cached_property
    def digest(self) -> str:
        """A hash of the template, its variables, and the prompts that it makes of some short conversations.

        Raises `InputError` where it makes other ones each time, or never comes to an end.
        """
        once, again = list[str](), list[str]()
        for rendered in (once, again):
            work = Thread(target=lambda into=rendered: into.extend(map(self._sample, SHAPES)), daemon=True)
            work.start()
            work.join(SECONDS)
            if len(rendered) < len(SHAPES):
                raise InputError(f"{self.name} has not rendered four short conversations in {SECONDS:g} s; mend it")
        if once != again:
            raise InputError(f"{self.name} renders one conversation differently each time; mend it")
        return hashlib.sha256(json.dumps([self._source, self._given, *once], sort_keys=True).encode()).hexdigest()

    @property
    def folds_system_turns(self) -> bool:
        """Whether a system turn goes into the first user turn, since the template refuses or leaves out one."""
        try:
            return self._to_fold(("system", "user"))
        except InputError:
            return False

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation.

        Raises `InputError` where the template fails, or does not show the content of a turn.
        """
        roles = tuple(message.role for message in messages)
        if roles not in self._folds:
            self._folds[roles] = self._to_fold(roles)
            if self._folds[roles]:
                logging.getLogger(__name__).warning(
                    "%s has no place for a system turn: it is put before the first user turn", self.name
                )
        shown = folded(messages) if self._folds[roles] else messages
        return self._checked(shown)

    def _to_fold(self, roles: tuple[str, ...]) -> bool:
        """Whether conversations of these roles need their system turns folded. Raises `InputError` as `render` does."""
        turns = _sample_turns(roles)
        try:
            self._checked(turns)
        except InputError:
            if not {"system", "user"} <= set(roles):
                raise
            try:
                self._checked(folded(turns))
            except InputError:
                pass
            else:
                return True
            raise
        return False

    def _checked(self, messages: Sequence[Message]) -> str:
        text = self._rendered(messages)
        missing = next((message for message in messages if not _shows(text, message.content)), None)
        if missing is None:
            return text
        start = "" if missing.content.startswith(SAMPLE) else f" '{' '.join(missing.content.split())[:40]}…'"
        read = sorted(set(re.findall(r"role\W{1,6}==\s*['\"](\w+)", self._source)))
        remedy = f"the roles that it reads ({', '.join(read)})" if read else "the roles that it reads"
        raise InputError(
            f"{self.name} leaves out or changes what the {missing.role} turn{start} says; name a prompt with {remedy}, "
            "or set model.chat_template to none or to another template's file"
        )

    def _sample(self, roles: tuple[str, ...]) -> str:
        """What is made of a short conversation; empty where it is refused."""
        try:
            return self._rendered(_sample_turns(roles))
        except InputError:
            return ""

    def _rendered(self, messages: Sequence[Message]) -> str:
        turns = [message.model_dump(include={"role", "content"}) for message in messages]
        clock = CLOCK if "strftime_now" in self._source else ""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, chat_template=clock + self._source, tokenize=False, **self._variables
                )
            )
        except Exception as error:
            line = getattr(error, "lineno", None)
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{self.name} fails on turns of {', '.join(message.role for message in messages)}: {said}"
                f"{f' (line {line})' if line else ''}; name a prompt with turns that it takes, or set "
                "model.chat_template to none or to another template's file"
            ) from error


def chat_template(tokenizer: Any, options: TemplateOptions) -> ChatTemplate | None:
    """The template that prompts are rendered with; None where there is none, or none is wanted.

    Raises `InputError` where it cannot be read, or where a variable is one of transformers' own.
    """
    own, chosen, variables = tokenizer.chat_template, options.chat_template, options.chat_template_kwargs
    if chosen == "none" or (chosen is None and not own):
        if variables:
            logging.getLogger(__name__).warning("model.chat_template_kwargs is not used: there is no chat template")
        return None
    taken = signature(tokenizer.apply_chat_template).parameters.keys() - {"add_generation_prompt", "tools", "documents"}
    if names := sorted(taken & variables.keys()):
        raise InputError(f"model.chat_template_kwargs: {names[0]} is no variable of a chat template; leave it out")
    name, source = f"the chat template of {tokenizer.name_or_path}", own
    if isinstance(own, dict) and (chosen or "default") in own:
        source = own[chosen or "default"]
    elif chosen is not None:
        name = f"the chat template {chosen}"
        try:
            source = Path(chosen).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            several = f"; the model's own are {', '.join(own)}" if isinstance(own, dict) else ""
            raise InputError(f"model.chat_template: {chosen} cannot be read: {error}{several}") from error
    if not isinstance(source, str):
        several = f": name one with model.chat_template ({', '.join(own)})" if isinstance(own, dict) else ""
        raise InputError(f"{name} is not one text{several}")
    return ChatTemplate(tokenizer, source, name, variables)


def _sample_turns(roles: Sequence[str]) -> list[Message]:
    """A conversation whose turns cannot be mistaken for each other, nor for anything that a template writes."""
    return [Message(role=role, content=f"{SAMPLE}{number}of{len(roles)}") for number, role in enumerate(roles, 1)]


def _shows(text: str, content: str) -> bool:
    """Whether a content stands in a text, whatever was done to its white space, its case, or what is escaped."""
    if content.strip() in text:
        return True
    written = map(_letters, (content, json.dumps(content, ensure_ascii=False), json.dumps(content)))
    shown = _letters(text), _letters(html.unescape(text))
    return any(form in view for form in written for view in shown)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())
