"""The client of a server: what a raw reply becomes, how secrets are masked, and which proxy a connection takes."""

import asyncio
import gzip
import json
from typing import Any

import pytest
from r2llm.rerankers.backends import openai
from r2llm.rerankers.backends._server import client
from r2llm.rerankers.backends._server.client import Client, proxy_of
from r2llm.rerankers.backends._server.spec import ServerSpec
from r2llm.rerankers.errors import BackendError, InputError

ZIPPED = gzip.compress(b'{"id": "a"}')
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b'Content-Length: 11\r\n\r\n{"id": "a"}'
KEY = 'sk-0123456789"/abcdef'


def spec(url: str, retries: int = 0) -> ServerSpec:
    return ServerSpec(openai.Options(name="stub", base_url=url, retries=retries, timeout=5.0), key=KEY)


async def with_server(raws: list[bytes], calls: int = 1, retries: int = 0) -> tuple[list[Any], list[bytes]]:
    """The answers of a server that gives these replies in turn, and the requests that it was sent."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not reader.at_eof():
                heard.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2))
                raw = raws[min(len(heard), len(raws)) - 1]
                writer.write(raw)
                if not raw.startswith(WHOLE):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        asking = Client(spec(url, retries))
        try:
            return [await asking.send("/completions", {}, lambda reply: reply) for _ in range(calls)], heard
        finally:
            await asking.close()


def test_requests_of_one_connection_carry_their_own_headers() -> None:
    second = WHOLE.replace(b'"a"', b'"b"')
    replies, heard = asyncio.run(with_server([WHOLE, second], calls=2))
    assert replies == [{"id": "a"}, {"id": "b"}]
    for request in heard:
        assert request.lower().startswith(b"post /v1/completions http/1.1\r\nhost: 127.0.0.1:")
        assert request.lower().count(b"\r\nhost:") == 1
        assert f"authorization: bearer {KEY}\r\n".encode() in request.lower()
        assert request.endswith(b"\r\n\r\n{}")


def test_a_compressed_reply_is_unpacked() -> None:
    raw = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED
    assert asyncio.run(with_server([raw]))[0] == [{"id": "a"}]


@pytest.mark.parametrize("status", [b"200 OK", b"500 Internal Server Error"])
def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch, status: bytes) -> None:
    monkeypatch.setattr(client, "MAX_BYTES", 1 << 20)
    bomb = gzip.compress(b" " * (20 << 20))
    raw = b"HTTP/1.1 " + status + b"\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    with pytest.raises(BackendError, match="a reply of more than 1 MiB"):
        asyncio.run(with_server([raw]))


def test_a_redirection_is_not_followed() -> None:
    raw = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\n{}"
    with pytest.raises(BackendError, match="answered with status 302"):
        asyncio.run(with_server([raw]))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        HEAD,
        HEAD + b'Content-Length: 99\r\n\r\n{"id"',
        b"no HTTP at all\r\n\r\n",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 11\r\n\r\nnot zipped!",
    ],
)
def test_what_is_no_reply_may_have_been_paid_for(raw: bytes) -> None:
    with pytest.raises(BackendError, match="no answer from"):
        asyncio.run(with_server([raw]))
    second = [raw, WHOLE]
    assert asyncio.run(with_server(second, retries=1))[0] == [{"id": "a"}]


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    closing = WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    replies, heard = asyncio.run(with_server([closing, WHOLE.replace(b'"a"', b'"b"')], calls=2))
    assert (replies, len(heard)) == ([{"id": "a"}, {"id": "b"}], 2)


def test_nothing_was_sent_where_nobody_listens() -> None:
    async def ask() -> None:
        asking = Client(spec("http://127.0.0.1:1/v1"))
        with pytest.raises(BackendError, match=r"no answer from http://127\.0\.0\.1:1/v1 after 1 attempt"):
            await asking.send("/completions", {}, lambda reply: reply)
        await asking.close()

    asyncio.run(ask())


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(KEY)[1:-1],
        json.dumps(KEY)[1:-1].replace("/", r"\/"),
        "".join(f"\\u{ord(char):04x}" for char in KEY),
        "".join(f"\\u{ord(char):04X}" for char in KEY),
        r"\u0073k-0123456789\u0022\/abcde\u0066",
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_key_is_masked_however_json_writes_it(written: str, nested: bool) -> None:
    text = f'{{"text": "this is {written}!"}}'
    text = json.dumps({"raw": text}) if nested else text
    described = spec("http://localhost/v1")
    for masked in (described.without_secret(text), described.shown(text)):
        assert json.loads(masked) == json.loads(text.replace(json.dumps(written)[1:-1] if nested else written, "…"))
    content = text.encode()
    raw = HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content
    [reply], _ = asyncio.run(with_server([raw]))
    assert "…!" in str(reply)
    with pytest.raises(BackendError) as raised:
        asyncio.run(with_server([raw.replace(b"200 OK", b"500 -")]))
    assert "0123456789" not in str(raised.value)


def test_a_word_for_a_key_is_left_in_answers() -> None:
    described = ServerSpec(openai.Options(name="stub"), key="EMPTY")
    assert described.without_secret("EMPTY") == "EMPTY"
    assert described.shown("EMPTY\nlist") == "… list"


def test_the_proxy_is_the_environments_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_of("https://api.example.org/v1") is None
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    assert proxy_of("https://api.example.org/v1") == "http://proxy.example.org:3128"
    assert proxy_of("http://api.example.org/v1") is None
    assert proxy_of("https://localhost:8000/v1") is None
    monkeypatch.setenv("no_proxy", "example.org")
    assert proxy_of("https://api.example.org/v1") is None
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("https_proxy", "socks5://user:secret@proxy.example.org:1080")
    with pytest.raises(InputError, match="https_proxy in the environment is no HTTP proxy; set it to one") as raised:
        proxy_of("https://api.example.org/v1")
    assert "secret" not in str(raised.value)
