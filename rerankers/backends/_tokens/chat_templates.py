"""Chat templates, rendered with a fixed clock and checked: all of the conversation must be in the prompt.

A template is a program that came with a model. It may write today's date, refuse a conversation, or leave turns out.
"""

import contextlib
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

TODAY = datetime(2024, 7, 26)  # the date for all templates: Llama 3's own default

# The formats of `strftime`, the longer ones first.
FORMATS = [f"%{flag}{letter}" for flag in ("-", "") for letter in "aAwdbBmyYHIpMSfjUWcxXzZGuVeFTDR"] + ["%%"]
# Goes before a template, in place of transformers' own function for the date.
CLOCK = "{%- macro strftime_now(format) -%}{{ format"
CLOCK += "".join(f"|replace('{form}', '{TODAY.strftime(form)}')" for form in FORMATS) + " }}{%- endmacro -%}"
# The roles of the sample conversations that are part of a template's digest.
CONVERSATIONS = [("user",), ("system", "user"), ("system", "user", "assistant", "user"), ("query", "document")]

SAMPLE = "r2llm turn "  # the beginning of their turns
SECONDS = 20.0  # the time limit for rendering them


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
        self.name, self._tokenizer, self._source, self._variables = name, tokenizer, source, variables
        self._folds: dict[tuple[str, ...], bool] = {}

    @cached_property
    def digest(self) -> str:
        """Return a hash of template, variables and sample prompts. Raises `InputError` if these vary or do not end."""
        renderings: tuple[list[str], list[str]] = [], []
        for rendering in renderings:
            work = Thread(target=lambda into=rendering: into.extend(map(self._sample, CONVERSATIONS)), daemon=True)
            work.start()
            work.join(SECONDS)
            if len(rendering) < len(CONVERSATIONS):
                raise InputError(f"{self.name} has not rendered four short conversations in {SECONDS:g} s; mend it")
        if renderings[0] != renderings[1]:
            raise InputError(f"{self.name} renders one conversation differently each time; mend it")
        content = [self._source, self._variables, *renderings[0]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def folds_system_turns(self) -> bool:
        """Return whether a system turn goes into the first user turn, since the template refuses or drops it."""
        with contextlib.suppress(InputError):
            return self._to_fold(("system", "user"))
        return False

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt of a conversation. Raises `InputError` if the template fails or leaves a turn out."""
        roles = tuple(message.role for message in messages)
        if roles not in self._folds and self._folds.setdefault(roles, self._to_fold(roles)):
            notice = "%s has no place for a system turn: it is put before the first user turn"
            logging.getLogger(__name__).warning(notice, self.name)
        return self._checked(folded(messages) if self._folds[roles] else messages)

    def _to_fold(self, roles: tuple[str, ...]) -> bool:
        turns = _sample_turns(roles)
        try:
            self._checked(turns)
        except InputError:
            if not {"system", "user"} <= set(roles):
                raise
            with contextlib.suppress(InputError):
                self._checked(folded(turns))
                return True
            raise
        return False

    def _checked(self, messages: Sequence[Message]) -> str:
        text = self._rendered(messages)
        missing = next((message for message in messages if not _shows(text, message.content)), None)
        if missing is None:
            return text
        start = "" if missing.content.startswith(SAMPLE) else f" '{' '.join(missing.content.split())[:40]}…'"
        roles = ", ".join(sorted(set(re.findall(r"role\W{1,6}==\s*['\"](\w+)", self._source))))
        raise InputError(
            f"{self.name} leaves out or changes what the {missing.role} turn{start} says; name a prompt with the roles "
            f"that it reads{roles and f' ({roles})'}, or set model.chat_template to none or to another template's file"
        )

    def _sample(self, roles: tuple[str, ...]) -> str:
        with contextlib.suppress(InputError):
            return self._rendered(_sample_turns(roles))
        return ""

    def _rendered(self, messages: Sequence[Message]) -> str:
        turns = [message.model_dump(include={"role", "content"}) for message in messages]
        template = (CLOCK if "strftime_now" in self._source else "") + self._source
        variables = {"add_generation_prompt": True, "date_string": TODAY.strftime("%d %b %Y")} | self._variables
        try:
            return str(self._tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **variables))
        except Exception as error:
            line = f" (line {number})" if (number := getattr(error, "lineno", None)) else ""
            problem = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{self.name} fails on turns of {', '.join(message.role for message in messages)}: {problem}{line}; "
                "name a prompt with turns that it takes, or set model.chat_template to none or another template's file"
            ) from error


def chat_template(tokenizer: Any, options: TemplateOptions) -> ChatTemplate | None:
    """Return the template for prompts, or None without one. Raises `InputError` if it or a variable is wrong."""
    templates, chosen, variables = tokenizer.chat_template, options.chat_template, options.chat_template_kwargs
    if chosen == "none" or (chosen is None and not templates):
        if variables:
            logging.getLogger(__name__).warning("model.chat_template_kwargs is not used: there is no chat template")
        return None
    taken = signature(tokenizer.apply_chat_template).parameters.keys() - {"add_generation_prompt", "tools", "documents"}
    if names := sorted(taken & variables.keys()):
        raise InputError(f"model.chat_template_kwargs: {names[0]} is no variable of a chat template; leave it out")
    several = ", ".join(templates) if isinstance(templates, dict) else ""
    name, source = f"the chat template of {tokenizer.name_or_path}", templates
    if several and (chosen or "default") in templates:
        source = templates[chosen or "default"]
    elif chosen is not None:
        name = f"the chat template {chosen}"
        try:
            source = Path(chosen).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            others = several and f"; the model's own are {several}"
            raise InputError(f"model.chat_template: {chosen} cannot be read: {error}{others}") from error
    if not isinstance(source, str):
        raise InputError(f"{name} is not one text{several and f': name one with model.chat_template ({several})'}")
    return ChatTemplate(tokenizer, source, name, variables)


def _sample_turns(roles: Sequence[str]) -> list[Message]:
    return [Message(role=role, content=f"{SAMPLE}{number}of{len(roles)}") for number, role in enumerate(roles, 1)]


def _shows(text: str, content: str) -> bool:
    """Return whether a content stands in a text, whatever its white space, case or escapes."""
    if content.strip() in text:
        return True
    forms = map(_letters, (content, json.dumps(content, ensure_ascii=False), json.dumps(content)))
    views = _letters(text), _letters(html.unescape(text))
    return any(form in view for form in forms for view in views)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())
