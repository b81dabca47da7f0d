"""A proxy that breaks some of the replies that it passes on: what a client of a server has to live with.

    python tests/tools/fault_proxy.py --target http://127.0.0.1:8000 --port 8001 [--rate 0.2] [--seed 0] [--faults A,B]

One request in five (`--rate`) gets one of the faults: 429, retry_after (429 that says when to come again), 500, slow,
lost (answered, but the connection is reset), cut (within the reply), truncated (JSON that ends early), duplicate (the
reply twice), hang (no answer, ever). GET /faults tells how often each was done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import struct
from collections import Counter
from urllib.parse import urlsplit

FAULTS = "429,retry_after,500,slow,lost,cut,truncated,duplicate"
"""All but `hang`."""

SLOW = 0.3
"""Seconds."""


async def message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one HTTP message."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


def response(status: int, content: object, *headers: str) -> bytes:
    """A reply of the proxy's own."""
    body = json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} -", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Proxy:
    """Passes requests on to one target."""

    def __init__(self, target: str, rate: float, faults: list[str], seed: int) -> None:
        parts = urlsplit(target)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.rate, self.faults = rate, faults
        self.dice = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None] | None] = set()  # else the garbage collector may take one that waits

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, with one of its own to the target."""
        upstream: asyncio.StreamWriter | None = None
        self.tasks.add(task := asyncio.current_task())
        try:
            up_reader, upstream = await asyncio.open_connection(self.host, self.port)
            while True:
                head, body = await message(reader)
                if b" /faults " in head.split(b"\r\n", 1)[0]:
                    writer.write(response(200, self.done))
                    continue
                post = head.startswith(b"POST")
                fault = self.dice.choice(self.faults) if post and self.dice.random() < self.rate else "none"
                self.done[fault] += 1
                if not await self._pass_on(fault, head + body, up_reader, upstream, writer):
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            for each in (upstream, writer):
                if each is not None:
                    each.close()
            self.tasks.discard(task)

    async def _pass_on(
        self,
        fault: str,
        request: bytes,
        up_reader: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request; returns whether the connection lives on."""
        error = {"error": {"message": f"a fault: {fault}", "param": None}}
        if fault in ("429", "500", "retry_after"):
            after = ["retry-after-ms: 200"] if fault == "retry_after" else []
            writer.write(response(500 if fault == "500" else 429, error, *after))
            return True
        if fault == "hang":
            await asyncio.sleep(86_400)
        upstream.write(request)
        head, body = await message(up_reader)
        if fault == "lost":
            # Closed with data to linger for no time: the other side sees a reset.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if fault == "cut":
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            return False
        if fault == "truncated":
            half = body[: len(body) // 2]
            writer.write(head.replace(str(len(body)).encode(), str(len(half)).encode()) + half)
            return True
        if fault == "slow":
            await asyncio.sleep(SLOW)
        writer.write(head + body)
        if fault == "duplicate":
            await writer.drain()
            writer.write(head + body)
        return True


async def run(args: argparse.Namespace) -> None:
    """Serve on this machine until told to stop; the address is the first line of output."""
    proxy = Proxy(args.target, args.rate, args.faults.split(","), args.seed)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", args.port, backlog=1024, limit=1 << 26)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default=FAULTS)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
