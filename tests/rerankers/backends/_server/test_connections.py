"""A server's connections: what a raw reply becomes, which errors they raise, and which proxy they take."""

import asyncio
import gzip
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2
import pytest
import yarl
from r2llm.rerankers.backends._server.connections import Connection, proxy_of
from r2llm.rerankers.errors import InputError

T = TypeVar("T")

ZIPPED = gzip.compress(b'{"id": "a"}')
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b'Content-Length: 11\r\n\r\n{"id": "a"}'


async def with_server(raw: bytes, use: Callable[[Connection, yarl.URL], Awaitable[T]]) -> tuple[T, list[bytes]]:
    """What is made of a connection to a server that gives the same bytes to each request; and what it was sent."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            heard.append(head + await reader.readexactly(2))
            writer.write(raw)
            if raw != WHOLE:
                break
        writer.close()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    async with await asyncio.start_server(quietly, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        connection = Connection(ssl.create_default_context(), None, 5.0)
        try:
            return await use(connection, yarl.URL(f"http://127.0.0.1:{port}/v1/completions")), heard
        finally:
            await connection.close()


def question() -> httpx2.Request:
    return httpx2.Request("POST", "http://replicas/completions", content=b"{}", headers={"Authorization": "Bearer key"})


async def twice(connection: Connection, url: yarl.URL) -> list[httpx2.Response]:
    return [await connection.send(url, question()) for _ in range(2)]


async def once(connection: Connection, url: yarl.URL) -> httpx2.Response:
    return await connection.send(url, question())


def test_requests_go_where_they_are_sent_with_their_own_headers() -> None:
    replies, heard = asyncio.run(with_server(WHOLE, twice))
    assert [reply.json() for reply in replies] == [{"id": "a"}] * 2
    for request in heard:
        assert request.startswith(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:")
        assert request.count(b"Host:") == 1
        assert b"authorization: Bearer key\r\n" in request.lower().replace(b"bearer", b"Bearer")
        assert request.endswith(b"\r\n\r\n{}")


def test_a_compressed_reply_is_handed_over_as_it_was() -> None:
    raw = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED
    reply, _ = asyncio.run(with_server(raw, once))
    assert reply.json() == {"id": "a"}
    assert "content-encoding" not in reply.headers


@pytest.mark.parametrize("status", [b"400 Bad Request", b"429 Too Many Requests", b"302 Found"])
def test_other_statuses_are_replies(status: bytes) -> None:
    raw = b"HTTP/1.1 " + status + b"\r\nRetry-After: 7\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\n{}"
    reply, heard = asyncio.run(with_server(raw, once))
    assert (reply.status_code, reply.headers["retry-after"], len(heard)) == (int(status[:3]), "7", 1)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", httpx2.ReadError),
        (HEAD, httpx2.ReadError),
        (HEAD + b'Content-Length: 99\r\n\r\n{"id"', httpx2.TransportError),
        (b"no HTTP at all\r\n\r\n", httpx2.RemoteProtocolError),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 11\r\n\r\nnot zipped!", httpx2.TransportError),
    ],
)
def test_what_is_no_reply_is_an_error_of_httpx(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        asyncio.run(with_server(raw, once))
    assert not isinstance(raised.value, httpx2.ConnectError)  # something was sent


def test_nothing_was_sent_where_nobody_listens() -> None:
    async def ask() -> None:
        connection = Connection(ssl.create_default_context(), None, 5.0)
        try:
            await connection.send(yarl.URL("http://127.0.0.1:1/v1"), question())
        finally:
            await connection.close()

    with pytest.raises(httpx2.ConnectError, match=r"127\.0\.0\.1"):
        asyncio.run(ask())


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
    with pytest.raises(InputError, match="no HTTP proxy; set https_proxy to one") as raised:
        proxy_of("https://api.example.org/v1")
    assert "secret" not in str(raised.value)
