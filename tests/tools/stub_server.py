"""A server that speaks OpenAI's protocol and answers from hashes: to try and test `backend: openai` without a model.

    python tests/tools/stub_server.py --port 8000 [--model stub] [--slots 256] [--delay 0.05] [--key-env NAME]
                                  [--without logprob_token_ids,echo,…]

Serves /models, /completions, /chat/completions, /rerank and /score below /v1 as vLLM does. Equal prompts have equal
answers, whenever and in whatever company they are asked: log-probabilities are hashes of prompt and token, texts name a
label or an order of the passages that the prompt shows. `--slots` prompts are answered at the same time, each in
`--delay` seconds; the others wait. With `--key-env` only the key in that environment variable opens it. `--without`
leaves out what other servers lack: logprobs, logprob_token_ids, prompt_logprobs, echo, several_prompts, max_tokens
(then max_completion_tokens is wanted), structured_outputs, continue_final_message, completions, chat, rerank, score,
models, ids. GET /stats tells how many prompts were answered, how many at once at most, and what CPU time that took, GET
/stats/counts also how often each of them was, by a hash.

Nothing but Python is needed; it is written to cost little, so that a client's limits can be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from zlib import crc32

LISTED = [f" filler{i}" for i in range(20)]
"""Tokens that are listed after the labels."""

MISSING = {"error": {"message": "Not Found", "type": "NotFoundError", "param": None, "code": 404}}

Answer = tuple[int, object]
"""Status and JSON."""


def chance(text: object, *parts: object) -> float:
    """A number from 0 to 1 that is a hash of the parts and of a text, which may be given by its own hash."""
    begun = text if isinstance(text, int) else digest(text)
    return round(crc32(repr(parts).encode(), begun) / 0xFFFFFFFF, 6)


def digest(text: object) -> int:
    """A text's hash."""
    return crc32(str(text).encode())


def text_of(prompt: object) -> str:
    """A prompt in one string, by which it is told from others."""
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt if isinstance(prompt, list) else [prompt]))


def labels_in(text: str) -> list[str]:
    """The labels that a prompt offers: letters or numbers of passages, or yes and no."""
    found = re.findall(r"Passage ([A-W]):", text) or re.findall(r"\[(\d+)\] ", text)
    return list(dict.fromkeys(found)) or ["Yes", "No"]


class Stub:
    """What the server answers."""

    def __init__(self, model: str, without: set[str]) -> None:
        self.model = model
        self.without = without
        self.numbers = iter(range(1, 1 << 62))
        self.answered: Counter[int] = Counter()

    def answer(self, path: str, body: dict[str, object]) -> Answer:
        """The answer to a request with a body."""
        name = path.rpartition("/v1")[2].strip("/")
        forms: dict[str, Callable[[dict[str, object]], Answer]] = {
            "completions": self._completions,
            "chat/completions": self._chat,
            "rerank": self._rerank,
            "score": self._score,
        }
        if name not in forms or name.split("/")[0] in self.without:
            return 404, MISSING
        if body.get("model") != self.model:
            message = f"The model `{body.get('model')}` does not exist."
            return 404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}
        return forms[name](body)

    def prompts(self, body: dict[str, object]) -> list[object]:
        """The prompts or passages of a request."""
        prompt = body.get("prompt", body.get("documents", body.get("text_2")))
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            return prompt
        return [prompt]

    def models(self) -> Answer:
        """The list of models."""
        if "models" in self.without:
            return 404, MISSING
        return 200, {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "stub"}]}

    def _envelope(self, kind: str, prompt_tokens: int, completion_tokens: int) -> dict[str, object]:
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        named = {} if "ids" in self.without else {"id": f"{kind}-{next(self.numbers)}"}
        return {**named, "model": self.model, "usage": usage | {"total_tokens": prompt_tokens + completion_tokens}}

    def _completions(self, body: dict[str, object]) -> Answer:
        prompts = self.prompts(body)
        if len(prompts) > 1 and "several_prompts" in self.without:
            return refused("one prompt only", "prompt")
        choices = [{"index": i, **self._choice(prompt, body)} for i, prompt in enumerate(prompts)]
        lengths = [len(prompt) if isinstance(prompt, list) else len(text_of(prompt).split()) for prompt in prompts]
        return 200, {**self._envelope("cmpl", sum(lengths), len(prompts)), "choices": choices}

    def _choice(self, prompt: object, body: dict[str, object]) -> dict[str, object]:
        text = text_of(prompt)
        known = digest(text)
        self.answered[known] += 1
        wanted = body.get("logprob_token_ids") if "logprob_token_ids" not in self.without else None
        count, as_ids = body.get("logprobs"), body.get("return_tokens_as_token_ids")
        choice: dict[str, object] = {"text": self._said(text, body), "logprobs": None, "finish_reason": "length"}
        if count is not None and "logprobs" not in self.without:
            if isinstance(wanted, list):
                listed = {f"token_id:{token}": logprob(known, token) for token in wanted}
            elif as_ids:
                listed = {f"token_id:{token}": logprob(known, token) for token in range(int(str(count)))}
            else:
                listed = dict(self._listed(text, int(str(count))))
            choice["logprobs"] = {"top_logprobs": [listed], "token_logprobs": [-1.0], "tokens": ["A"]}
        if (
            isinstance(prompt, list)
            and body.get("prompt_logprobs") is not None
            and "prompt_logprobs" not in self.without
        ):
            choice["prompt_logprobs"] = [
                None,
                *({str(token): {"logprob": logprob(prompt[:i], token)}} for i, token in enumerate(prompt) if i),
            ]
        if isinstance(prompt, list) and body.get("echo") and "echo" not in self.without:
            values = [None, *(logprob(prompt[:i], token) for i, token in enumerate(prompt) if i)]
            choice["logprobs"] = {"token_logprobs": values + [-1.0] * int(str(body.get("max_tokens")))}
        return choice

    def _listed(self, text: str, count: int) -> list[tuple[str, float]]:
        known = digest(text)
        tokens = (labels_in(text) + LISTED)[:count]
        return sorted(((token, logprob(known, token)) for token in tokens), key=lambda row: -row[1])

    def _said(self, text: str, body: dict[str, object]) -> str:
        labels = labels_in(text)
        drawn = body.get("seed", 0) if body.get("temperature") else 0
        known = digest(text)
        order = sorted(labels, key=lambda label: -chance(known, label, drawn))
        return " > ".join(f"[{label}]" for label in order) if labels[0].isdigit() else order[0]

    def _chat(self, body: dict[str, object]) -> Answer:
        if "max_tokens" in self.without and "max_tokens" in body:
            return refused("Unsupported parameter: use 'max_completion_tokens' instead.", "max_tokens")
        messages = body["messages"]
        assert isinstance(messages, list)
        goes_on = bool(body.get("continue_final_message")) and "continue_final_message" not in self.without
        text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        text = text if goes_on else f"{text}\nassistant:"
        self.answered[digest(text)] += 1
        said, count = self._said(text, body), body.get("top_logprobs")
        held = body.get("structured_outputs") if "structured_outputs" not in self.without else None
        if isinstance(held, dict):
            said = max(held["choice"], key=lambda label: logprob(text, label.strip()))
        choice: dict[str, object] = {"index": 0, "message": {"role": "assistant", "content": said}, "logprobs": None}
        if count is not None and "logprobs" not in self.without:
            listed = self._listed(text, int(str(count)))
            if isinstance(held, dict):
                listed = [(label, logprob(text, label.strip()) + 1.0) for label in held["choice"]]
            top = [{"token": token, "logprob": p} for token, p in listed]
            choice["logprobs"] = {"content": [{"token": said, "logprob": -1.0, "top_logprobs": top}]}
        return 200, {**self._envelope("chatcmpl", len(text.split()), 1), "choices": [choice]}

    def _scores(self, query: object, passages: Sequence[object]) -> list[float]:
        for passage in passages:
            self.answered[digest(f"{query}|{passage}")] += 1
        return [chance(query, passage) for passage in passages]

    def _rerank(self, body: dict[str, object]) -> Answer:
        scores = self._scores(body["query"], self.prompts(body))
        rows = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
        return 200, {
            **self._envelope("rerank", 9 * len(rows), 0),
            "results": sorted(rows, key=lambda row: -row["relevance_score"]),
        }

    def _score(self, body: dict[str, object]) -> Answer:
        scores = self._scores(body["text_1"], self.prompts(body))
        rows = [{"index": i, "score": score} for i, score in enumerate(scores)]
        return 200, {**self._envelope("score", 9 * len(rows), 0), "data": rows}


def logprob(prompt: object, token: object) -> float:
    """The log-probability of a token after a prompt, or after one by its hash: one of many that are all improbable."""
    return -4.0 - 8.0 * chance(prompt if isinstance(prompt, int) else text_of(prompt), token)


def refused(message: str, field: str) -> Answer:
    """A refusal in OpenAI's form."""
    return 400, {"error": {"message": message, "type": "BadRequestError", "param": field, "code": 400}}


class Slots:
    """So many prompts are answered at once, in order of arrival.

    When a prompt's time begins and ends is reckoned, so that a late event loop takes nothing from what is possible.
    """

    def __init__(self, count: int, delay: float) -> None:
        self.free = self.count = count
        self.delay = delay
        self.most = 0
        self.begun = 0.0
        self.ends: deque[tuple[float, int]] = deque()

    def take(self, prompts: int, answer: Callable[[], None]) -> None:
        """Call `answer` when so many prompts have had their time."""
        loop = asyncio.get_running_loop()
        self.begun = max(self.begun, loop.time())
        while self.ends and (self.ends[0][0] <= self.begun or self.free < min(prompts, self.count)):
            end, ended = self.ends.popleft()
            self.begun = max(self.begun, end)
            self.free += ended
        self.free -= prompts
        self.most = max(self.most, self.count - self.free)
        self.ends.append((self.begun + self.delay, prompts))
        loop.call_at(self.begun + self.delay, answer)


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request after the other."""

    def __init__(self, stub: Stub, slots: Slots, key: str | None) -> None:
        self.stub, self.slots, self.key = stub, slots, key
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            match = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            length = int(match[1]) if match else 0
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self._request(head, body)

    def _request(self, head: bytes, content: bytes) -> None:
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if self.key and f"\r\nauthorization: bearer {self.key}".lower() not in head.decode().lower():
            self._reply((401, {"error": {"message": f"Incorrect API key provided: {self.key[:4]}…", "param": None}}))
        elif method == "GET":
            stats = {
                "prompts": self.stub.answered.total(),
                "most_at_once": self.slots.most,
                "cpu_seconds": time.process_time(),
            }
            counts = {"counts": self.stub.answered} if "counts" in path else {}
            self._reply((200, stats | counts) if "/stats" in path else self.stub.models())
        else:
            body = json.loads(content)
            # Made before its time has come, so that a slot is free when the time is over.
            answer = self.stub.answer(path, body)
            self.slots.take(len(self.stub.prompts(body)), lambda: self._reply(answer))

    def _reply(self, answer: Answer) -> None:
        content = json.dumps(answer[1]).encode()
        head = f"HTTP/1.1 {answer[0]} -\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self.transport.write(head.encode() + content)  # type: ignore[attr-defined]


async def serve(make: Callable[[], asyncio.Protocol], port: int) -> None:
    """Serve on this machine until told to stop; the address is the first line of output."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--model", default="stub")
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--key-env")
    parser.add_argument("--without", default="")
    args = parser.parse_args()
    stub = Stub(args.model, set(filter(None, args.without.split(","))))
    slots = Slots(args.slots, args.delay)
    key = os.environ[args.key_env] if args.key_env else None
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(serve(lambda: Connection(stub, slots, key), args.port))


if __name__ == "__main__":
    main()
