"""Servers that do everything wrong that servers were seen to do: a table of faults, each with what comes of it.

A fault is done to the replies of an honest server (the stub's answers) over a real connection of this machine: to each
request the `first` time it is put, also to those that find out what the server can do; to the `asks` alone, to those
about `one` of the documents, to the list of `models`, or `always`. The outcome is the honest server's ranking (`SAME`),
so many unread answers (a number), or an error with certain words and the exit code 2 or 3.
"""

import copy
import gzip
import json
import math
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_LINGER, SOL_SOCKET
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from r2llm.rerankers.backends import openai
from r2llm.rerankers.backends._server import client, limits
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import R2llmError

SAME = "the honest server's ranking"

RANKERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chat": ({"method": "pointwise.yes_no"}, {"api": "chat"}),
    "text": ({"method": "setwise.heapsort", "scoring": "generation", "num_child": 4}, {"api": "chat"}),
    "order": ({"method": "listwise.sliding", "window": 3, "stride": 2}, {"api": "chat"}),
    "completions": ({"method": "pointwise.yes_no"}, {"api": "completions"}),
    "written": ({"method": "setwise.heapsort", "scoring": "generation", "num_child": 4}, {"api": "completions"}),
    "rerank": ({"method": "pointwise.cross_encoder"}, {"api": "rerank"}),
    "score": ({"method": "pointwise.cross_encoder"}, {"api": "score"}),
}
"""Ways of asking: ranker and model options."""


class Sent(NamedTuple):
    """A reply as it is sent."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    act: str = ""
    """`reset`, `close`, `cut`, `hang`, `twice`, `longer` or `chunks`: what is done besides or instead."""


Fault = Callable[[Any], Any]
"""What becomes of an honest reply's JSON: other JSON, or a `Sent`."""

Row = tuple[str, str, str, Fault, Any]


def says(status: int, body: Any = None, **headers: str) -> Fault:
    """A reply with that status and body, whatever was asked."""
    content = {"error": {"message": "a fault"}} if body is None else body
    return lambda _: Sent(status, content, {name.replace("_", "-"): value for name, value in headers.items()})


def does(act: str) -> Fault:
    return lambda reply: Sent(body=reply, act=act)


HANGS = does("hang")


def edit(*path: Any, to: Any) -> Fault:
    """The honest reply with another value under a path; a path that is not there is an honest reply."""

    def change(reply: Any) -> Any:
        at = reply
        with suppress(KeyError, IndexError, TypeError):
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = to(at.get(path[-1])) if callable(to) else to
        return reply

    return change


def without(*path: Any) -> Fault:
    def change(reply: Any) -> Any:
        at = reply
        with suppress(KeyError, IndexError, TypeError):
            for step in path[:-1]:
                at = at[step]
            del at[path[-1]]
        return reply

    return change


def listed(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """Each token that is listed, in either form, changed as `{"token": …, "logprob": …}`."""

    def fault(reply: Any) -> Any:
        for choice in reply.get("choices", []):
            logprobs = choice.get("logprobs") or {}
            for place in logprobs.get("content", []):
                place["top_logprobs"] = [row for row in map(change, place["top_logprobs"]) if row]
            if isinstance(logprobs.get("top_logprobs"), list):
                rows = [{"token": t, "logprob": p} for t, p in logprobs["top_logprobs"][0].items()]
                logprobs["top_logprobs"] = [{r["token"]: r["logprob"] for r in map(change, rows) if r}]
        return reply

    return fault


def labels_are(value: Any) -> Fault:
    return listed(lambda row: row | {"logprob": value} if row["token"] in ("Yes", "No") else row)


def fillers_are(value: Any) -> Fault:
    return listed(lambda row: row | {"logprob": value} if "filler1" in row["token"] else row)


def first_rows(count: int) -> Fault:
    def fault(reply: Any) -> Any:
        for choice in reply.get("choices", []):
            for place in (choice.get("logprobs") or {}).get("content", []):
                rows = place["top_logprobs"]
                place["top_logprobs"] = [row for row in rows if row["token"] in ("Yes", "No")][: count - 1] + rows[-1:]
        return reply

    return fault


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


MESSAGE, SCORES = ("choices", 0, "message"), ("results", 0, "relevance_score")
FILTERED = "filtered by the content management policy"
SAFETY = [{"error": {"code": 400, "message": "blocked", "status": "PROHIBITED_CONTENT"}}]

ONCE: list[tuple[str, Fault]] = [
    *((f"status {code}", says(code)) for code in (408, 409, 425, 500, 501, 502, 503, 504, 520, 529)),
    ("status 502, a web page", says(502, b"<html>Bad gateway</html>")),
    ("status 500, nothing", says(500, b"")),
    ("status 503 that names a wait in ms", says(503, None, retry_after_ms="20")),
    ("status 429", says(429)),
    ("status 429, nothing", says(429, b"")),
    ("status 429, come at once", says(429, None, retry_after="0")),
    ("status 429, a wait in ms", says(429, None, retry_after_ms="20")),
    ("status 429, a date gone by", says(429, None, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")),
    ("status 429, a wait that is none", says(429, None, retry_after="soon")),
    ("status 429, a negative wait", says(429, None, retry_after="-1")),
    ("status 429, when the limit is renewed", says(429, None, x_ratelimit_reset="0s20ms")),
    ("status 429, a time gone by", says(429, None, x_ratelimit_reset="1445412480000")),
    ("connection reset", does("reset")),
    ("connection closed", does("close")),
    ("cut within the reply", does("cut")),
    ("a longer length than is sent", does("longer")),
    ("chunks without an end", does("chunks")),
    ("hangs", HANGS),
    ("reply twice", does("twice")),
    ("JSON that ends early", lambda reply: Sent(body=json.dumps(reply).encode()[:-9])),
    ("nothing", says(200, b"")),
    ("a web page", says(200, b"<html>Please log in</html>")),
    ("a stream of events", says(200, b"data: {}\n\ndata: [DONE]\n\n")),
    ("null", says(200, b"null")),
    ("a number", says(200, b"7")),
    ("a string", says(200, b'"yes"')),
    ("a list", says(200, b"[]")),
    ("an empty object", says(200, b"{}")),
    ("no UTF-8", says(200, b'{"id": "\xff\xfe"}')),
    ("nested 100,000 deep", says(200, b"[" * 100_000)),
    ("an integer of 5,000 digits", says(200, b'{"id": ' + b"9" * 5_000 + b"}")),
    ("zipped wrongly", says(200, b"not zipped", content_encoding="gzip")),
    ("unpacks to more than is taken", says(200, gzip.compress(b" " * 200_000), content_encoding="gzip")),
    ("an error in a reply of success", says(200, error("Provider returned error", code=502))),
    ("an error as a string in a reply of success", says(200, {"error": "overloaded"})),
    ("an error object as a reply of success", says(200, {"object": "error", "message": "oops", "code": 500})),
    ("a rate limit in a reply of success", says(200, error("slow down", code=429))),
    ("a rate limit by its code alone", says(200, error("slow down", code="rate_limit_exceeded"))),
]

CHAT_ONCE: list[tuple[str, Fault]] = [
    ("no choices", without("choices")),
    ("choices null", edit("choices", to=None)),
    ("choices empty", edit("choices", to=[])),
    ("choices of null", edit("choices", to=[None])),
    ("an empty choice", edit("choices", to=[{}])),
    ("an error in a choice", edit("choices", 0, "error", to={"message": "upstream", "code": 502})),
    ("message a string", edit(*MESSAGE, to="Yes")),
    ("no log-probabilities", edit("choices", 0, "logprobs", to=None)),
    ("log-probabilities without content", edit("choices", 0, "logprobs", "content", to=None)),
    ("log-probabilities of no token", edit("choices", 0, "logprobs", "content", to=[])),
    ("top_logprobs null", edit("choices", 0, "logprobs", "content", 0, "top_logprobs", to=None)),
    ("two log-probabilities instead of twenty", first_rows(2)),
    ("no usage", without("usage")),
    ("usage null", edit("usage", to=None)),
    ("usage of strings", edit("usage", to={"prompt_tokens": "many"})),
    ("usage of a negative number", edit("usage", "prompt_tokens", to=-5)),
    ("usage of a number beyond 64 bits", edit("usage", "prompt_tokens", to=1 << 70)),
]

DECLINED: list[tuple[str, Fault]] = [
    ("Azure: content_filter", says(400, error(FILTERED, code="content_filter", param="prompt"))),
    ("Azure: inner error", says(400, error("x", code="bad", innererror={"code": "ResponsibleAIPolicyViolation"}))),
    ("OpenAI: content_policy_violation", says(400, error("no", code="content_policy_violation"))),
    ("OpenAI: flagged prompt", says(400, error("flagged as violating our usage policy", code="invalid_prompt"))),
    ("OpenAI: moderation_blocked", says(400, error("no", code="moderation_blocked"))),
    ("OpenRouter: 403, moderation", says(403, error("Input was flagged", code=403, metadata={"reasons": ["hate"]}))),
    ("Alibaba: DataInspectionFailed", says(400, {"code": "DataInspectionFailed", "message": "Input data"})),
    ("DeepSeek: Content Exists Risk", says(400, error("Content Exists Risk", type="invalid_request_error"))),
    ("Gemini: PROHIBITED_CONTENT", says(400, SAFETY)),
    ("content_filter in a reply of success", says(200, error(FILTERED, code="content_filter"))),
    ("a choice that was filtered", edit("choices", 0, "finish_reason", to="content_filter")),
    ("Gemini: a choice with SAFETY", edit("choices", 0, "finish_reason", to="SAFETY")),
    ("a choice without a message", edit("choices", to=[{"index": 0, "finish_reason": "content_filter"}])),
    ("a choice that stopped without a message", edit("choices", to=[{"index": 0, "finish_reason": "stop"}])),
    ("message null", edit("choices", to=[{"message": None, "finish_reason": "content_filter"}])),
    ("a refusal", edit(*MESSAGE, to={"role": "assistant", "content": None, "refusal": "I cannot help with that"})),
]

ENDS: list[tuple[str, Fault, tuple[int, str]]] = [
    ("401", says(401), (3, "lets nobody in without a valid key")),
    ("403", says(403, error("not in your region")), (3, "(status 403: not in your region)")),
    ("402", says(402, error("Payment required")), (3, "no credit or quota left (status 402: Payment required)")),
    ("insufficient_quota", says(429, error("plan", code="insufficient_quota")), (3, "no credit or quota left")),
    ("insufficient balance", says(403, error("Insufficient Balance")), (3, "no credit or quota left")),
    ("429 for ever", says(429, error("slow down")), (3, "answered with status 429 after")),
    ("500 for ever", says(500, error("CUDA error")), (3, "status 500 after 3 attempts (CUDA error)")),
    ("302", says(302, b"", location="/login"), (3, "status 302 after 1 attempt (")),
    ("hangs for ever", HANGS, (3, "after 3 attempts (no reply within 0.5 s)")),
    (
        "JSON that always ends early",
        lambda r: Sent(body=json.dumps(r).encode()[:-9]),
        (3, "after 3 attempts (malformed"),
    ),
    ("an error in each reply of success", says(200, error("no GPU", code=503)), (3, "503 after 3 attempts (no GPU)")),
    ("a prompt that is too long", says(400, error("maximum context length is 8")), (2, "lower ranker.passage_tokens")),
    ("413", says(413, b"Request Entity Too Large"), (2, "lower ranker.passage_tokens")),
    ("a refusal of a field", says(400, error("no 'temperature'", param="temperature")), (2, "omit: [temperature]")),
    ("a refusal about anything else", says(400, error("bad luck")), (2, "refuses the request: bad luck; model.omit")),
    ("an unknown parameter of moderation", says(400, error("no parameter 'safety', 'moderation'")), (2, "refuses the")),
    ("escape characters", says(500, error("\x1b[31mred\x07")), (3, "(\\x1b[31mred\\x07)")),
    ("no such path", says(404, {"detail": "Not Found"}), (2, "(Not Found); set another model.api")),
    ("no log-probabilities, ever", edit("choices", 0, "logprobs", to=None), (2, "set ranker.scoring: generation")),
    ("logits instead", listed(lambda row: row | {"logprob": 12.5}), (2, "--logprobs-mode raw_logprobs")),
]

BAD_LABELS: list[tuple[str, Any]] = [
    ("NaN", math.nan),
    ("-Infinity", -math.inf),
    ("Infinity", math.inf),
    ("-9999", -9999.0),
    ("null", None),
    ("strings", "-0.5"),
    ("true", True),
    ("positive", 3.0),
]

TABLE: list[Row] = [
    *((name, "chat", "first", fault, SAME) for name, fault in ONCE + CHAT_ONCE),
    *((name, "rerank", "first", fault, SAME) for name, fault in ONCE[::4]),
    *((name, "chat", "one", fault, 2) for name, fault in DECLINED),
    ("a failure in a reply of success at one prompt", "chat", "one", says(200, error("Provider", code=502)), 2),
    *((name, "completions", "one", fault, 2) for name, fault in DECLINED[:11]),
    *((name, "rerank", "one", fault, 2) for name, fault in DECLINED[:10]),
    *(
        (name, "chat", "asks" if name[0] == "a" or name == "413" else "always", fault, outcome)
        for name, fault, outcome in ENDS
    ),
    *((f"labels {name}", "chat", "asks", labels_are(value), 10) for name, value in BAD_LABELS),
    *((f"labels {name}", "completions", "asks", labels_are(value), 10) for name, value in BAD_LABELS),
    *((f"other tokens {name}", "chat", "always", fillers_are(v), SAME) for name, v in BAD_LABELS if name != "positive"),
    ("five log-probabilities, ever", "chat", "always", first_rows(3), SAME),
    ("ids that are all the same", "chat", "always", edit("id", to="koboldcpp"), SAME),
    ("ids that are all the same", "order", "always", edit("id", to="koboldcpp"), SAME),
    ("ids that are numbers", "chat", "always", edit("id", to=1), SAME),
    ("no ids", "chat", "always", without("id"), SAME),
    ("content in parts", "text", "always", edit(*MESSAGE, "content", to=lambda c: [{"type": "text", "text": c}]), SAME),
    ("content in strings", "order", "always", edit(*MESSAGE, "content", to=lambda c: [c[:2], c[2:]]), SAME),
    (
        "a thought among the parts",
        "order",
        "always",
        edit(
            *MESSAGE,
            "content",
            to=lambda c: [
                {"type": "thinking", "thinking": [{"type": "text", "text": "[2] > [1]?"}]},
                {"type": "text", "text": c},
            ],
        ),
        SAME,
    ),
    ("a thought beside", "order", "always", edit(*MESSAGE, "reasoning_content", to="[2] > [1]"), SAME),
    ("content a number", "text", "first", edit(*MESSAGE, "content", to=7), SAME),
    ("a lone surrogate", "order", "always", edit(*MESSAGE, "content", to=lambda c: f"{c}\n\ud800"), SAME),
    ("a lone surrogate as the model", "chat", "always", edit("model", to="\udfff"), SAME),
    ("text null", "written", "first", edit("choices", 0, "text", to=None), SAME),
    ("too many choices", "written", "first", edit("choices", to=lambda choices: choices * 2), SAME),
    ("a wrong index", "written", "first", edit("choices", 0, "index", to=5), SAME),
    ("no log-probabilities", "completions", "first", edit("choices", 0, "logprobs", to=None), SAME),
    ("top_logprobs empty", "completions", "first", edit("choices", 0, "logprobs", "top_logprobs", to=[]), SAME),
    ("top_logprobs null", "completions", "first", edit("choices", 0, "logprobs", "top_logprobs", to=[None]), SAME),
    ("no results", "rerank", "first", without("results"), SAME),
    ("results null", "rerank", "first", edit("results", to=None), SAME),
    ("results empty", "rerank", "first", edit("results", to=[]), SAME),
    ("a result too few", "rerank", "first", edit("results", to=lambda rows: rows[1:]), SAME),
    ("a result twice", "rerank", "first", edit("results", to=lambda rows: rows + rows[:1]), SAME),
    ("an index that is none", "rerank", "first", edit("results", 0, "index", to=99), SAME),
    ("score NaN", "rerank", "first", edit(*SCORES, to=math.nan), SAME),
    ("score Infinity", "rerank", "first", edit(*SCORES, to=math.inf), SAME),
    ("score null", "rerank", "first", edit(*SCORES, to=None), SAME),
    ("score a string", "rerank", "first", edit(*SCORES, to="0.5"), SAME),
    ("score NaN for ever", "rerank", "asks", edit(*SCORES, to=math.nan), (3, "malformed reply")),
    ("score null", "score", "first", edit("data", 0, "score", to=None), SAME),
    ("data null", "score", "first", edit("data", to=None), SAME),
    ("an index twice", "score", "first", edit("data", 0, "index", to=1), SAME),
    ("scores that depend on the group", "rerank", "group", lambda reply: reply, (2, "set model.group_scores: true")),
    ("no system turn (400)", "order", "system", says(400, error("System role not supported")), "folded"),
    ("no system turn (500)", "order", "system", says(500, b"Internal Server Error"), "folded"),
    ("no system turn (422)", "order", "system", says(422, {"detail": [{"msg": "Input should be 'user'"}]}), "folded"),
    ("models: 500", "chat", "models", says(500), SAME),
    ("models: 404", "chat", "models", says(404), SAME),
    ("models: a web page", "chat", "models", says(200, b"<html>"), SAME),
    ("models: data null", "chat", "models", says(200, {"data": None}), SAME),
    ("models: names alone", "chat", "models", says(200, {"data": ["stub"]}), SAME),
    ("models: odd owners", "chat", "models", edit("data", 0, "owned_by", to=["x"]), SAME),
    ("models: 401", "chat", "models", says(401), (3, "lets nobody in")),
]


class Hostile:
    """A server that does one thing wrong, and else answers as the stub does."""

    def __init__(self, stub: Any, when: str, fault: Fault) -> None:
        self.stub, self.when, self.fault = stub, when, fault
        self.lock = threading.Lock()
        self.times: Counter[bytes] = Counter()

    def reply(self, path: str, content: bytes) -> Sent:
        body = json.loads(content) if content else None
        with self.lock:
            self.times[path.encode() + content] += 1
            first = self.times[path.encode() + content] == 1
            sent = Sent(*(self.stub.answer(path, body) if body else self.stub.models()))
        text = str(body)
        roles = [turn["role"] for turn in (body or {}).get("messages", [])]
        applies = {
            "first": body is not None and first,
            "always": body is not None,
            "asks": "moons" in text,
            "one": "passage number 3" in text,
            "models": body is None,
            "system": "system" in roles,
            "group": False,
        }[self.when]
        if self.when == "group" and body:
            for row in sent.body["results"]:
                row["relevance_score"] += len(body["documents"])
        if not applies:
            return sent
        changed = self.fault(copy.deepcopy(sent.body))
        return changed if isinstance(changed, Sent) else Sent(sent.status, changed)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms behind its headers
    hostile: Hostile

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sent = self.hostile.reply(self.path, content)
        data = sent.body if isinstance(sent.body, bytes) else json.dumps(sent.body).encode()
        if sent.act == "hang":
            self.rfile.read(1)  # until the client gives up
        if sent.act == "reset":
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        if sent.act in ("hang", "reset", "close"):
            self.close_connection = True
            return
        self.send_response(sent.status)
        for name, value in sent.headers.items():
            self.send_header(name, value)
        if sent.act == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
            data = b"%x\r\n%b\r\n" % (len(data), data)
        else:
            self.send_header("Content-Length", str(len(data) + 9 * (sent.act == "longer")))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if sent.act == "cut" else data)
        self.close_connection = sent.act in ("cut", "longer", "chunks")
        if sent.act == "twice":
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # else a connection beyond the fifth waits a second


@pytest.fixture
def hostile(stub_module: ModuleType) -> Iterator[Callable[[str, Fault], str]]:
    """Start a server that does a fault; its base URL."""
    servers: list[Server] = []

    def start(when: str, fault: Fault) -> str:
        handler = type("Handler", (Handler,), {"hostile": Hostile(stub_module.Stub("stub", set()), when, fault)})
        servers.append(Server(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.fixture(scope="module")
def ask(make_candidates: Callable[..., Any], rank: Callable[..., Any]) -> Callable[..., Any]:
    """The ranking by a way of asking the server of that URL, and what the backend found out.

    Only a server that hangs is given up soon: an honest reply may take long on a busy machine.
    """
    queries = [make_candidates(5, f"q{i}", f"query number {i}") for i in range(2)]

    def ranked(form: str, url: str, timeout: float = 4.0) -> Any:
        ranker, model = RANKERS[form]
        settings = {"name": "stub", "base_url": url, "retries": 2, "timeout": timeout, "max_concurrency": 16, **model}
        backend = openai.open(openai.Options(**settings), Setting())
        try:
            return rank(ranker, backend, queries), backend.details
        finally:
            backend.close()

    return ranked


@pytest.fixture(scope="module")
def honest(ask: Callable[..., Any], shared_stub: str) -> Callable[[str], Any]:
    """The ranking that the honest server gives, by a way of asking."""
    return cache(lambda form: ask(form, shared_stub)[0])


def orders(ranked: Any) -> dict[str, tuple[str, ...]]:
    return {cost.query_id: ranking.docs for ranking, cost in ranked}


def alike(row: Row) -> bool:
    """Whether a fault of chats is done to another form of asking, whose statuses the same code reads."""
    name, form, when, *_ = row
    return form in ("completions", "rerank") and (name, "chat", when) in {other[:3] for other in TABLE}


def test_the_table_has_at_least_the_ninety_two_kinds() -> None:
    kinds = {(form, when, name) for name, form, when, *_ in TABLE}
    assert len(kinds) == len(TABLE)
    assert len({name for name, *_ in TABLE}) >= 92


@pytest.mark.parametrize(
    ("form", "when", "fault", "outcome"),
    [pytest.param(*row[1:], id=f"{row[1]}: {row[0]}", marks=[pytest.mark.slow] * alike(row)) for row in TABLE],
)
def test_a_hostile_server(
    hostile: Callable[[str, Fault], str],
    ask: Callable[..., Any],
    honest: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    when: str,
    fault: Fault,
    outcome: Any,
) -> None:
    for module, name, value in (
        (client, "FIRST_PAUSE", 0.01),
        (limits, "FIRST_WAIT", 0.01),
        (limits, "PATIENCE", 3.0 if outcome == SAME else 0.2),
        (client, "MAX_BYTES", 100_000),
    ):
        monkeypatch.setattr(module, name, value)
    url, timeout = hostile(when, fault), 4.0
    if fault is HANGS:
        timeout = 1.0 if outcome == SAME else 0.5
    if isinstance(outcome, tuple):
        exit_code, words = outcome
        with pytest.raises(R2llmError) as raised:
            ask(form, url, timeout)
        assert words in str(raised.value)
        assert raised.value.exit_code == exit_code
        assert "\n" not in str(raised.value)
        return
    found, details = ask(form, url, timeout)
    unread = sum(cost.unparsed for _, cost in found)
    if outcome == SAME:
        assert orders(found) == orders(honest(form))
        assert unread == 0
    elif outcome == "folded":
        assert details["capabilities"]["system_turn"].startswith("refused")
        assert unread == 0
    else:
        assert unread == outcome
    json.dumps(details).encode()
