"""Errors as servers word them: what a reply without an answer says, and which kind of trouble that is."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import BackendError
from .spec import ServerSpec

# Where servers put the words of an error, and its code or what holds it.
MESSAGES = ("message", "detail", "msg", "error", "raw", "metadata")
CODES = ("error", "innererror", "metadata", "code", "type", "status", "reason", "reasons", "error_type")

# Codes of providers that decline a prompt: OpenAI's, Azure's, Gemini's, Alibaba's, DeepSeek's and others'.
DECLINED = re.compile(
    r"content[ _-]?(?:filter|policy|moderation|management policy|exists risk)|moderation|responsible_?ai|"
    r"data_?inspection|prohibited_content|blocklist|guardrail|sensitive_(?:content|words)|\bsafety\b|\brefusal\b|"
    r"\brecitation\b|\bspii\b|invalid_prompt",
    re.IGNORECASE,
)
# The same in a message, which may also name an unknown parameter of moderation or safety.
DECLINED_WORDS = re.compile(
    r"content[ _](?:filter|policy|moderation|management policy|exists risk)|inappropriate content|usage polic|"
    r"(?:was|been|were) (?:flagged|blocked|filtered)|flagged (?:by|for|as)|blocked (?:by|due to) .*(?:safety|polic)",
    re.IGNORECASE,
)
QUOTA = re.compile(
    r"insufficient[ _-]?(?:quota|balance|credits?|funds)|billing_hard_limit|arrearage|out of credits", re.IGNORECASE
)
LENGTH = re.compile(  # of a prompt
    r"context (?:length|window|size)|too (?:long|large|many (?:\w+ )?tokens)|"
    r"(?:max|maximum|exceed|limit)\w*.{0,60}(?:tokens?|length|characters)|"
    r"(?:tokens?|length|characters).{0,60}(?:exceed|maximum|limit)",
    re.IGNORECASE,
)


class FailedError(BackendError):
    """All attempts at a request ended in errors of the server's own (5xx) or in malformed replies."""


class MalformedError(Exception):
    """A reply is not of the form that was asked for; the request is repeated."""


Kind = Literal[
    "unsent", "silent", "malformed", "declined", "no credit", "no entry", "too many", "passing", "wrong", "odd"
]
REPEATED = ("unsent", "silent", "malformed", "passing")  # the same request may be answered later


@dataclass(eq=False)
class AttemptError(Exception):
    """An attempt without an answer: its kind and reason, and if the server sent an error, what else that says.

    It ends a request where the server finds that wrong (4xx), or its provider declines the content, which is the
    outcome of one ask and has used so many tokens.
    """

    kind: Kind
    reason: str
    status: int = 0
    blamed: str | None = None  # field of the request
    wait: float | None = None  # seconds that it asks for
    hidden: bool = False  # it came with the status of success
    tokens: tuple[int | None, int | None] = (0, 0)  # of prompt and answer
    replica: Any = None

    def __str__(self) -> str:
        return self.reason


def refusal(
    status: int, body: Any, shown: Callable[[str], str], wait: float | None = None, *, hidden: bool = False
) -> AttemptError:
    """Return the failure that an error's JSON or text tells of; `shown` makes its words fit for a message."""
    if isinstance(body, list) and len(body) == 1:  # Gemini's
        [body] = body
    error = body.get("error") if isinstance(body, Mapping) else None
    blamed = error.get("param") if isinstance(error, Mapping) else None
    message = shown(": ".join(dict.fromkeys(_texts(body, MESSAGES)))) or f"status {status}"
    kind = _kind(status, _codes(body), message, wait)
    return AttemptError(kind, message, status, blamed if isinstance(blamed, str) else None, wait, hidden)


def final(failure: AttemptError, spec: ServerSpec, attempts: int, *, others_answered: bool) -> Exception:
    """Return the error that a request ends with if this was its last attempt."""
    status, reason, where = failure.status, failure.reason, spec.where
    if failure.hidden and status >= 500 and others_answered:
        # A provider that reports a failure as success, while others are answered, fails at this prompt.
        failure.kind = "declined"
    if failure.kind in ("wrong", "declined"):
        return failure
    after, key = f"after {attempts} attempt{'s' * (attempts > 1)}", "another one with model.api_key_env"
    if failure.kind == "no entry":
        why = f": {reason}" if status == 403 else ""  # 401's may hold a part of the key
        state = f"{spec.options.api_key_env} {'was refused' if spec.key else 'is not set'}"
        problem = f"lets nobody in without a valid key (status {status}{why}), and the one in the environment variable"
        return BackendError(f"{where} {problem} {state}; set it, or name {key}")
    if failure.kind == "no credit":
        problem, remedy = f"the account at {where} has no credit or quota left (status {status}: {reason})", "top it up"
        remedy += f" or name {key},"
    elif status:
        problem, remedy = f"{where} answered with status {status} {after} ({reason})", "wait"
        remedy += ", or lower model.requests_per_minute," if status == 429 else ""
    else:
        problem = f"no answer from {where} {after} ({reason})"
        remedy = f"see that the server runs and keeps up (model.timeout is {spec.options.timeout:g} s)"
    error = FailedError if failure.kind == "malformed" or status >= 500 else BackendError
    return error(f"model.base_url: {problem}; {remedy} and run again: all answers are kept")


def _kind(status: int, codes: str, message: str, wait: float | None) -> Kind:
    if status in (400, 403, 422, 451) and (DECLINED.search(codes) or DECLINED_WORDS.search(message)):
        return "declined"  # this prompt's content
    if status == 402 or (status in (400, 403, 429) and QUOTA.search(f"{codes} {message}")):
        return "no credit"
    if status in (401, 403):
        return "no entry"
    if status in (408, 409, 425, 429) or status >= 500:
        return "passing" if wait is None and status != 429 else "too many"
    return "wrong" if status >= 400 else "odd"


def hidden_status(body: Any) -> int | None:
    """Return the status that an error inside a reply of success stands for, or None if there is no error in it."""
    if not isinstance(body, Mapping):
        return None
    parts = next((body[name] for name in ("choices", "results", "data", "models") if body.get(name)), [body])
    parts = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    error = next((part["error"] for part in parts if part.get("error")), None)
    says_error = isinstance(body.get("message"), str) and (body.get("object") == "error" or body.get("code"))
    if not error and parts == [body] and says_error:
        error = body
    if not error:
        return None
    code = str(error.get("code") if isinstance(error, Mapping) else "")
    if re.fullmatch("[45][0-9][0-9]", code):
        return int(code)
    codes = _codes(error)
    if re.search("rate.?limit", codes, re.IGNORECASE) or QUOTA.search(codes):
        return 429
    return 400 if DECLINED.search(codes) else 500


def reason_declined(body: Any) -> str | None:
    """Return why the provider withheld the answer in a reply of success, or None if it did not."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    for choice in (c for c in choices if isinstance(c, Mapping)) if isinstance(choices, list) else ():
        reason, message = choice.get("finish_reason"), choice.get("message")
        if isinstance(message, Mapping) and message.get("refusal") and not message.get("content"):
            return str(message["refusal"])
        if isinstance(reason, str) and DECLINED.search(reason):
            return reason
        if reason and message is None and "text" not in choice:
            return f"no message, finish_reason {reason}"
    return None


def _texts(body: Any, names: Sequence[str]) -> Iterator[str]:
    """Yield the texts and numbers under these names, at any depth."""
    if isinstance(body, (str, int)):
        yield str(body)
    parts = body[:3] if isinstance(body, list) else map(body.get, names) if isinstance(body, Mapping) else ()
    for part in parts:
        yield from _texts(part, names)


def _codes(body: Any) -> str:
    """Return an error's codes, which are words without blanks, unlike messages under the same names."""
    return " ".join(text for text in _texts(body, CODES) if " " not in text)
