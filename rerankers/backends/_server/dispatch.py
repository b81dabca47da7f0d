"""A bounded number of requests open at a server, in an event loop of its own thread.

Asks flow through: what is submitted is prepared a little ahead of what is sent, tokenised in a second thread, and
handed over as it is answered. Where one fails for good, no more is sent, what is on its way is waited for and handed
over, and then the failure is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ...answers.reading import Reply
from ..base import Answered, Request
from .budget import BudgetSpentError

WINDOW = 64
"""So many of the waiting requests are prepared at once."""

AHEAD = 8
"""So many groups are prepared ahead."""


@dataclass(frozen=True, slots=True)
class Group:
    """Asks that go to the server together, each with what was prepared for it."""

    way: str
    """How they are put: those of one way and one set of terms can share a request."""
    requests: tuple[Request, ...]
    prepared: tuple[Any, ...]

    def split(self) -> list[Group]:
        """Each ask alone."""
        return [
            Group(self.way, (request,), (prepared,))
            for request, prepared in zip(self.requests, self.prepared, strict=True)
        ]


class Work(Protocol):
    """What is done with requests."""

    takes_long: bool
    """Whether preparing takes so long that it is done in a thread of its own, besides what is sent and received."""

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Groups of requests, ready to be sent."""

    async def begin(self) -> None:
        """Reach the server; called in the event loop, before all else."""

    async def answer(self, group: Group) -> list[Reply]:
        """The replies to a group, in order."""

    def halt(self) -> set[asyncio.Task[Any] | None]:
        """Repeat nothing from now on; returns the tasks that a reply is on its way to."""

    async def end(self) -> None:
        """Let go of the server."""


class Dispatch:
    """Requests on their way to a server and back; `most_open` asks are open at once, as far as groups allow."""

    def __init__(self, work: Work, most_open: int) -> None:
        self.work = work
        self.most_open = most_open
        self.outstanding = 0
        """Requests submitted and not yet handed over."""
        self._waiting: deque[Request] = deque()
        self._done: queue.SimpleQueue[Answered | BaseException] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        """What was raised where answers are collected."""
        self._broken: BaseException | None = None
        """The first failure in the event loop."""
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._arrived, self._freed, self._stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._groups: asyncio.Queue[Group] = asyncio.Queue(AHEAD)
        self._tasks: set[asyncio.Task[None]] = set()
        # A daemon: after Ctrl-C nothing waits for a server.
        self._thread = threading.Thread(target=self._run, name="r2llm-server", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests, to be sent in order."""
        if not requests:
            return
        self.outstanding += len(requests)
        self._waiting.extend(requests)
        self._tell(self._arrived)

    def collect(self) -> Answered:
        """Wait until some are answered and hand those over; nothing where none is outstanding.

        Raises the failure of a request when all others that were under way are handed over.
        """
        answered: Answered = []
        while self.outstanding and self._failure is None:
            try:
                found = self._done.get(block=not answered)
            except queue.Empty:
                break
            if isinstance(found, BaseException):
                self._failure = found
            else:
                answered += found
        self.outstanding -= len(answered)
        if not answered and self._failure is not None:
            raise self._failure
        return answered

    def close(self) -> None:
        """Give up what is under way and end the thread."""
        self._tell(self._stop)
        self._thread.join()

    def _tell(self, event: asyncio.Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: collect says why
            self._loop.call_soon_threadsafe(event.set)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        """Send until stopped or failed; the last that is handed over is the failure, or an error that says closed."""
        sending = [asyncio.create_task(self._failing(each)) for each in (self._prepare_all(), self._send_all())]
        await self._stop.wait()
        under_way = self.work.halt() if self._broken else set()
        for task in [*sending, *(self._tasks - under_way)]:
            task.cancel()
        await asyncio.gather(*sending, *self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self.work.end()
        self._done.put(self._broken or RuntimeError("the backend is closed"))

    async def _failing(self, work: Any) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - raised where answers are collected
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._broken = self._broken or error
        self._stop.set()

    async def _prepare_all(self) -> None:
        await self.work.begin()
        # One thread: tokenizers are not made for several.
        with ThreadPoolExecutor(1, "r2llm-prompts") as preparer:
            while True:
                while not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
                some = [self._waiting.popleft() for _ in range(min(len(self._waiting), WINDOW))]
                for group in await self._prepared(some, preparer):
                    await self._groups.put(group)

    async def _prepared(self, some: list[Request], preparer: ThreadPoolExecutor) -> list[Group]:
        if self.work.takes_long:
            return await self._loop.run_in_executor(preparer, self.work.prepare, some)
        return self.work.prepare(some)

    async def _send_all(self) -> None:
        while True:
            group = await self._groups.get()
            size = len(group.requests)
            while self._open and self._open + size > self.most_open:
                self._freed.clear()
                await self._freed.wait()
            self._open += size
            task = asyncio.create_task(self._failing(self._ask(group)))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, size))

    def _ended(self, size: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open -= size
        self._freed.set()

    async def _ask(self, group: Group) -> None:
        try:
            replies = await self.work.answer(group)
        except BudgetSpentError:
            if len(group.requests) == 1:
                raise
            for one in group.split():  # some may still fit
                await self._ask(one)
        else:
            self._done.put(list(zip(group.requests, replies, strict=True)))
