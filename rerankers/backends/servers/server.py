"""A server that speaks OpenAI's protocol: requests to it, their retries, and errors in words of the config.

The `openai` client repeats what fails with 408, 409, 429, 5xx, a timeout or a broken connection: after half a second,
then twice as long each time up to 8 s, up to a quarter of it left out by chance, or after as long as `Retry-After`
says, up to two minutes. Malformed and repeated replies are broken connections to it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import openai

from ...errors import BackendError
from .budget import Budget, Spending
from .forms import RefusedError
from .replicas import CALL, NOTHING, Call, Replicas

T = TypeVar("T")

MOST_TOLD = 300
"""So many characters of a server's own message are told."""

VALUES = 8
"""So many different values of a field that replies carry are kept."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached: its URLs, the key and where it comes from, seconds a reply may take, and retries."""

    urls: Sequence[str]
    key: str | None
    key_name: str
    timeout: float
    retries: int

    @property
    def shown(self) -> str:
        """The base URLs, for messages."""
        return ", ".join(self.urls)

    def without_key(self, text: str) -> str:
        """A text in one line, shortened, with the key left out."""
        line = " ".join(text.split())[:MOST_TOLD]
        return line.replace(self.key, "…") if self.key else line


class Server:
    """Requests to one server or its replicas; to be used in one event loop."""

    def __init__(self, access: Access, budget: Budget) -> None:
        self.access = access
        self.replicas = Replicas(access.urls, access.timeout, budget)
        self._client = openai.AsyncOpenAI(
            base_url="http://replicas",
            api_key=access.key or "none",
            max_retries=access.retries,
            http_client=httpx2.AsyncClient(transport=self.replicas),
        )
        self._headers: dict[str, Any] = {"Content-Type": "application/json"}
        if not access.key:
            self._headers["Authorization"] = openai.Omit()
        self.seen: dict[str, Counter[str]] = {"model": Counter(), "system_fingerprint": Counter()}
        """What the replies say of the model that gave them, and how often."""

    async def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, asks: int = 0, most: Spending = NOTHING
    ) -> T:
        """What `read` makes of the reply; it raises `MalformedError` or any error of look-up where that is no answer.

        `asks` counts the asks that the request carries, `most` is what it can cost. Raises `RefusedError` where the
        server will not have the request, and `BackendError` where it has not answered after all retries.
        """

        def noting(reply: Any) -> T:
            self._note(reply)
            return read(reply)

        call = Call(noting, asks, most)
        CALL.set(call)
        content = json.dumps(body).encode()
        request = self._client.post(path, cast_to=httpx2.Response, content=content, options={"headers": self._headers})
        await self._answered(request, call, self.access.retries + 1)
        result: T = call.result
        return result

    async def get(self, path: str, most_retries: int) -> Any:
        """The JSON under a path, asked for with so many retries at most. Raises as `post` does."""
        call = Call(lambda reply: reply)
        CALL.set(call)
        retries = min(self.access.retries, most_retries)
        client = self._client.with_options(max_retries=retries)
        request = client.get(path, cast_to=httpx2.Response, options={"headers": self._headers})
        await self._answered(request, call, retries + 1)
        return call.result

    async def _answered(self, request: Any, call: Call, attempts: int) -> None:
        access = self.access
        try:
            await request
        except openai.APIStatusError as error:
            raise self._refusal(error, attempts) from None
        except openai.APIConnectionError:
            raise BackendError(
                f"model.base_url: no answer from {access.shown} after {attempts} attempts "
                f"({access.without_key(call.trouble)}); see that the server runs and keeps up (model.timeout is "
                f"{access.timeout:g} s) and run again: all answers are kept"
            ) from None

    def _refusal(self, error: openai.APIStatusError, attempts: int) -> Exception:
        access, status = self.access, error.status_code
        if status in (401, 403):
            given = "was refused" if access.key else "is not set"
            return BackendError(
                f"{access.shown} lets nobody in without a valid key (status {status}), and the one in the environment "
                f"variable {access.key_name} {given}; set it, or name another one with model.api_key_env"
            )
        content = error.body if isinstance(error.body, Mapping) else {}
        inner = content.get("error", content)
        content = inner if isinstance(inner, Mapping) else content
        told = content.get("message") or content.get("detail") or content.get("error") or error.body or ""
        message = access.without_key(told if isinstance(told, str) else json.dumps(told))
        if status in (408, 409, 429) or status >= 500 or status < 400:
            return BackendError(
                f"model.base_url: {access.shown} still answered with status {status} after {attempts} "
                f"attempts ({message}); wait, or lower model.max_concurrency, and run again: all answers are kept"
            )
        field = content.get("param")
        return RefusedError(status, message or f"status {status}", field if isinstance(field, str) else None)

    def _note(self, reply: Any) -> None:
        if isinstance(reply, Mapping):
            for name, values in self.seen.items():
                value = reply.get(name)
                if isinstance(value, str) and (value in values or len(values) < VALUES):
                    values[value] += 1

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
