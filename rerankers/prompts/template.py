"""Prompts: YAML files, filled in with a query and passages.

A passage is data. Templates are filled in one pass, so that braces in a passage stay braces; whoever tokenises a text
keeps it from turning into a control token.
"""

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .. import catalog
from ..asks import KINDS
from ..errors import InputError, reason
from ..types import Ask, AskKind
from . import composition as components

Architecture = Literal["encoder_decoder", "decoder_only"]
"""The two forms of language model, which begin and count their answers differently."""

FIELDS = {"query", "num", "limit", "names", "passages", "|"}
PASSAGE_FIELDS = {"label", "index", "text", "signal"}
SEAM = "\ue000"  # a private-use character in a prompt: there the text is tokenised in parts
BRACKETED_NUMBER = re.compile(r"\[(\d+)\]")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(_Part):
    """One turn of the conversation; its role is one that the model's chat template reads.

    `content` may use {query}, {num} (of passages), {limit} (of passages to select), {names} (of all passages, as an
    answer gives them), {passages}, the prompt's notes, and {|}, where the text is tokenised in parts. Neighbouring
    turns with `each` are repeated for every passage, and use {query}, {label}, {index} (from 0), {text} and {signal}
    instead.
    """

    role: Annotated[str, Field(pattern=r"^\w[\w-]*$")]
    content: str
    each: bool = False


class Prefixes(_Part):
    """The beginning of every answer: the decoder's first words, or those of the assistant's turn."""

    encoder_decoder: str = ""
    decoder_only: str = ""


Length = Annotated[int, Field(ge=1)] | Literal["ideal"]
"""A number of tokens, or as many as an answer takes that names every passage once."""

Stops = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(strict=False),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
"""Texts that end an answer, or one of them."""


class Lengths(_Part):
    """The most tokens of a generated answer."""

    encoder_decoder: Length = 16
    decoder_only: Length = 16


def _capturing(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    if not groups:
        raise ValueError("has no group (…) that captures the answer")
    return pattern


class Marked(_Part):
    """Tokens whose states are the vectors of the query and of each passage, and the weights that project them.

    Each weight is a tensor of the model's files by name, without bias; ReLU stands between two. A prompt shows `block`
    passages, fewer where those of `context` tokens that are left beside the query, twice, would not hold a further one
    of full length; more passages make several prompts.
    """

    query: str
    passage: str
    projector: tuple[str, ...] = ()
    block: int | None = Field(None, ge=1)
    context: int | None = Field(None, ge=1)


class Fused(_Part):
    """Passages read apart by an encoder-decoder: its encoder reads each `each` turn, its decoder all states, joined.

    The other turns, if there are any, are the whole input of the decoder. It sees the means of `pooled` neighbouring
    states each. `special_tokens` stand around the texts. With `views` it sees the first so many states of each text,
    every view by itself, and a passage's score is the mean product of its state and the decoder's first.
    """

    pooled: int = Field(1, ge=1)
    special_tokens: bool = True
    views: int | None = Field(None, ge=1)


class AnswerForm(_Part):
    """The form of an answer, and its generation; the texts of `stop` are no part of it.

    `item` is one passage in an answer that names several, with `joiner` between them. `pattern` is a regular
    expression: of a generated text, thoughts included, its first match counts, and thereof what the first group
    captures that takes part; a text without a match is unread. `scored` says whether a label's log-probability is that
    of its first token, or the sum over all of them; with `logit` a document's score is the sum of the first tokens' raw
    logits, each times its label's value (of a head's two labels, the second's logit). With `after_thought` a text is
    generated first, and labels have the log-probability at its last token or, where they are not among the likeliest
    there, after `closing`, which goes behind the prompt with the text as {thought}, cut to its last sentence. With
    `written` a generated label's value is multiplied by the probability with which it was written.
    With `cosine` it is that of two vectors: each turn is a text that is read by itself or, where some have `each`, each
    of those, and the others as one prompt, which is the query; or, with `marked`, the whole is read once.
    """

    prefix: Prefixes = Prefixes()
    max_new_tokens: Lengths = Lengths()
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    stop: Stops = ()
    item: str = "[{label}]"
    joiner: str = " > "
    pattern: Annotated[str, AfterValidator(_capturing)] | None = None
    scored: Literal["first_token", "whole", "logit", "after_thought", "written", "cosine"] = "first_token"
    closing: str = ""
    marked: Marked | None = None

    def naming(self, labels: Sequence[str]) -> str:
        """Return an answer that names those labels."""
        return self.joiner.join(self.item.format(label=label) for label in labels)


class Prompt(_Part):
    """A prompt: the kinds of ask it serves, its wording, its labels, and the form of an answer.

    `labels` are given to the passages in order of presentation or, as a mapping, are the possible answers about one
    passage, with the relevance each one means; `numbers` are 1, 2, 3 … without end, or a score is a number.
    `tokens` are the first tokens of labels, as ids or as the vocabulary has them (▁true), where they are not those
    that the label has after the prompt. `text` is the form for encoder-decoder models and `chat_template: none`,
    unless it is the messages one after the other. `notes` are shown as further fields, cut to the length of a
    passage or whole. The log-probability of `target` is the answer. Of a passage the first `words` are shown, with
    single blanks between them, and thereof the first `characters`. `fix_text` first mends what was decoded wrongly
    and makes quotation marks straight (ftfy). `bracketed_numbers: round` makes [3] in a query or passage (3), which
    is no passage's identifier. `strip` takes the white space around each turn. {passages} shows the first `listed`.
    """

    name: str
    source: str
    asks: tuple[AskKind, ...]
    messages: tuple[Message, ...]
    text: str | None = None
    notes: dict[str, Literal["cut", "whole"]] = {}
    target: str | None = None
    words: int | None = Field(None, ge=1)
    characters: int | None = Field(None, ge=1)
    fix_text: bool = False
    bracketed_numbers: Literal["keep", "round"] = "keep"
    strip: bool = False
    passage: str = "{text}"
    separator: str = "\n\n"
    listed: int | None = Field(None, ge=1)
    fused: Fused | None = None
    labels: tuple[str, ...] | dict[str, float] | Literal["numbers"] = ()
    tokens: dict[str, int | str] = {}
    answer: AnswerForm = AnswerForm()

    @model_validator(mode="after")
    def _fields_and_labels_fit(self) -> "Prompt":
        fields = FIELDS | set(self.notes)
        for message in self.messages:
            _check_fields(message.content, PASSAGE_FIELDS | {"query"} if message.each else fields)
        _check_fields(self.text or "", fields)
        _check_fields(self.answer.item, {"label"})
        _check_fields(self.answer.closing, {"thought"})
        _check_fields(self.target or "", {"query"})
        _check_fields(self.passage, PASSAGE_FIELDS)
        if self.fused and self.answer.scored not in ("first_token", "logit"):
            raise ValueError(
                "fused: a passage is scored by its views, or by labels' first tokens, or text is generated"
            )
        if self.answer.scored == "written" and not self.answer.pattern:
            raise ValueError("answer.scored: written needs answer.pattern, which says where the label stands")
        if self.answer.scored == "after_thought" and "{thought}" not in self.answer.closing:
            raise ValueError("answer.scored: after_thought needs answer.closing, a text with {thought}")
        wanted = {KINDS[kind].labels for kind in self.asks}
        if "values" in wanted and not isinstance(self.labels, dict) and self.labels != "numbers":
            raise ValueError("asks: [score] needs labels with values, such as {'Yes': 1.0, 'No': 0.0}, or numbers")
        if unknown := self.tokens.keys() - self.labels if isinstance(self.labels, dict) else self.tokens:
            raise ValueError(f"tokens: {min(unknown)} is no label with a value")
        if "documents" in wanted and isinstance(self.labels, dict):
            raise ValueError("asks about several passages need a list of labels, one a passage")
        return self

    @property
    def most_docs(self) -> int | None:
        """Return the number of passages that there are labels for, or None if there is no end."""
        return len(self.labels) if isinstance(self.labels, tuple) and self.labels else None

    def check_values(self) -> None:
        """Raise `InputError` if all labels have one value, since then all scores by likelihood are equal."""
        if self.answer.scored == "logit" and isinstance(self.labels, dict) and any(self.labels.values()):
            return
        if not isinstance(self.labels, dict) or len(set(self.labels.values())) < 2:
            raise InputError(
                f"prompt '{self.name}': its labels have one value, and with scoring: likelihood so have all documents; "
                "give it labels of several values, such as {'Yes': 1.0, 'No': 0.0}, or set scoring: generation"
            )

    @property
    def of_states(self) -> bool:
        """Return whether several passages are scored by states of the model, and not by labels."""
        listwise = self.answer.scored == "cosine" and "relevance" not in self.asks
        return listwise or bool(self.fused and self.fused.views)

    @property
    def raw_logits(self) -> bool:
        """Return whether scores by likelihood need logits or states: of a difference, log-probabilities do as well."""
        if self.of_states:
            return True
        return self.answer.scored == "logit" and isinstance(self.labels, dict) and sum(self.labels.values()) != 0

    @cached_property
    def digest(self) -> str:
        """Return a hash of everything but the name, the source and the asks: prompts of one digest read the same."""
        content = self.model_dump_json(exclude={"name", "source", "asks"}, exclude_defaults=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def scores_numbers(self, kind: AskKind) -> bool:
        """Return whether such asks are answered with a number, which is the score."""
        return self.labels == "numbers" and KINDS[kind].labels == "values"

    def labels_of(self, ask: Ask) -> tuple[str, ...]:
        """Return the labels that answer an ask: one a document, in their order, all of a mapping's, or no label."""
        if isinstance(self.labels, dict):
            labels = tuple(self.labels)
        elif self.labels == "numbers":
            count = 0 if self.scores_numbers(ask.kind) else len(ask.docs)
            labels = tuple(str(number) for number in range(1, count + 1))
        else:
            labels = self.labels[: len(ask.docs)]
        return tuple(labels[i] for i in ask.labels) if ask.labels else labels

    def render(
        self,
        ask: Ask,
        query: str,
        passages: Sequence[str],
        form: Architecture = "decoder_only",
        notes: Mapping[str, str] | None = None,
        seam: str = "",
        words: int | None = None,
    ) -> tuple[Message, ...]:
        """Return the conversation that puts an ask, its texts cut already, in one turn where the prompt has a `text`.

        Of a passage it shows so many `words` instead of the prompt's, if given.

        Raises `InputError` if the ask carries notes other than the prompt's.
        """
        notes = dict(ask.notes) if notes is None else notes
        if set(notes) != set(self.notes):
            raise InputError(f"prompt '{self.name}' shows the notes {sorted(self.notes)}, not {sorted(notes)}")
        if self.bracketed_numbers == "round":
            query, *passages = [BRACKETED_NUMBER.sub(r"(\1)", text) for text in (query, *passages)]
        if self.words is not None:
            passages = [" ".join(text.split()[: words or self.words]) for text in passages]
        passages = [text[: self.characters] for text in passages]
        labels = ("",) * len(passages) if isinstance(self.labels, dict) else self.labels_of(ask)
        rows = zip_longest(labels, passages, ask.signals, fillvalue="")
        names = ("index", "label", "text", "signal")
        parts = [{"query": query, **dict(zip(names, (index, *row), strict=True))} for index, row in enumerate(rows)]
        shown = self.separator.join(self.passage.format(**part) for part in parts[: self.listed])
        whole = {"query": query, "num": len(passages), "limit": ask.limit, "passages": shown, "|": seam, **notes}
        whole["names"] = self.answer.naming(labels)
        if form == "encoder_decoder" and self.text is not None:
            return (self._turn(Message(role="user", content=self.text), whole),)
        turns: list[Message] = []
        for repeated, group in groupby(self.messages, key=lambda message: message.each):
            block = list(group)
            for fields in parts if repeated else [whole]:
                turns += [self._turn(turn, fields) for turn in block]
        return tuple(turns)

    def _turn(self, turn: Message, fields: Mapping[str, Any]) -> Message:
        content = turn.content.format(**fields)
        return turn.model_copy(update={"content": content.strip() if self.strip else content})


@lru_cache(maxsize=10_000)
def mended(text: str) -> str:
    """Return the text, stripped, its encoding mended and its quotes straight, as castorini/rank_llm shows passages."""
    import ftfy

    return str(ftfy.fix_text(text)).strip()


def folded(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the conversation with its system turns put before the first user turn, on lines of their own."""
    system = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    first = next((i for i, message in enumerate(others) if message.role == "user"), None)
    if first is None:
        return (Message(role="user", content="\n\n".join(system)), *others) if system else tuple(others)
    others[first] = Message(role="user", content="\n\n".join([*system, others[first].content]))
    return tuple(others)


def load(name: str) -> Prompt:
    """Return the prompt of that name or YAML file; `composition` says how a name chooses among a file's components.

    Raises `InputError` if there is none or the file is no prompt.
    """
    base, choices = components.split(name)
    path, content = _read(base)
    try:
        content = components.compose(content, choices)
        return Prompt.model_validate({"name": "/".join([path.stem, *name.split("/")[base.count("/") + 1 :]])} | content)
    except (ValidationError, InputError) as error:
        problem = reason(error)
    except (TypeError, KeyError, AttributeError) as error:
        problem = f"malformed: {' '.join(str(error).split())}"
    raise InputError(f"prompt {path}: {problem}")


def variations(name: str) -> list[str]:
    """Return the names of all prompts that the components of a file make, or its name alone if it has none."""
    return list(components.variations(name, _read(name)[1]))


def _read(name: str) -> tuple[Path, dict[str, Any]]:
    """Return a prompt's file and its content. Raises `InputError` if it cannot be read or is no YAML mapping."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else catalog.prompt_file(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompt {path}: cannot be read: {error}") from error
    try:
        content = _parsed(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(f"prompt {path}: not a YAML mapping: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"prompt {path}: not a YAML mapping: {content!r}")
    return path, content


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    # A grid or the list of systems opens the same prompts a thousand times; parsing takes far longer than all the rest.
    return yaml.load(text, _Loader)  # noqa: S506 - it is the safe loader


class _Loader(yaml.SafeLoader):
    """The safe loader, by which keys are what was typed, and only true and false are truth values: `Yes` is a label."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [resolver for resolver in resolvers if first in "tTfF" or not resolver[0].endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def _check_fields(template: str, known: set[str]) -> None:
    for _, name, form, conversion in string.Formatter().parse(template):
        written = "".join((name or "", f"!{conversion}" if conversion else "", f":{form}" if form else ""))
        if name is not None and written not in known:
            raise ValueError(f"{{{written}}} is no field here; write {' or '.join(f'{{{f}}}' for f in sorted(known))}")
