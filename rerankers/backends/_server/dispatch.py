"""A bounded number of asks open at a server, in an event loop of its own thread.

While some asks are sent, the next ones are prepared, tokenised in a second thread. Where one fails for good, no more is
sent, replies on their way are waited for and handed over, and then the failure is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..base import Answered, Request
from .budget import BudgetSpentError
from .conversation import Conversation
from .forms import Group

WINDOW = 64
"""So many of the waiting requests are prepared at once, at most."""


class Dispatch:
    """Requests on their way to a server and back; `max_open` asks are open at once, as far as groups allow."""

    def __init__(self, conversation: Conversation, max_open: int) -> None:
        self.conversation = conversation
        self.max_open = max_open
        self._outstanding = 0
        self._waiting: deque[Request] = deque()
        self._done: queue.SimpleQueue[Answered | BaseException] = queue.SimpleQueue()
        self._raised: BaseException | None = None
        """What `collect` raises from now on."""
        self._failure: BaseException | None = None
        """The first failure in the event loop."""
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._arrived, self._freed, self._stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        # A daemon: after Ctrl-C nothing waits for a server.
        self._thread = threading.Thread(target=self._run, name="r2llm-server", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests, to be sent in order."""
        self._outstanding += len(requests)
        self._waiting.extend(requests)
        self._set(self._arrived)

    def collect(self) -> Answered:
        """Wait until some are answered and return those; nothing if none is outstanding.

        Raises the failure of a request when all others that were under way are handed over.
        """
        answered: Answered = []
        while self._outstanding and self._raised is None:
            try:
                done = self._done.get(block=not answered)
            except queue.Empty:
                break
            if isinstance(done, BaseException):
                self._raised = done
            else:
                answered += done
        self._outstanding -= len(answered)
        if not answered and self._raised is not None:
            raise self._raised
        return answered

    def close(self) -> None:
        """Give up what is under way and end the thread."""
        self._set(self._stop)
        self._thread.join()

    def _set(self, event: asyncio.Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: collect says why
            self._loop.call_soon_threadsafe(event.set)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        """Send until stopped or failed; the last that is handed over is the failure, or an error that says closed."""
        self._start(self._send_all())
        await self._stop.wait()
        under_way = self.conversation.halt() if self._failure else set()
        for task in self._tasks - under_way:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self.conversation.end()
        self._done.put(self._failure or RuntimeError("the backend is closed"))

    def _start(self, work: Coroutine[Any, Any, None], asks: int = 0) -> None:
        """Start work, which holds so many asks open and whose failure is the end."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._open -= asks
            self._freed.set()
            if not task.cancelled() and (error := task.exception()):
                self._failure = self._failure or error
                self._stop.set()

        self._open += asks
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def _send_all(self) -> None:
        await self.conversation.begin()
        with ThreadPoolExecutor(1, "r2llm-prompts") as preparer:  # one thread: tokenizers are not made for several
            upcoming = asyncio.create_task(self._prepare(preparer))
            try:
                while True:
                    groups = await upcoming
                    upcoming = asyncio.create_task(self._prepare(preparer))
                    for group in groups:
                        size = len(group.requests)
                        while self._open and self._open + size > self.max_open:
                            self._freed.clear()
                            await self._freed.wait()
                        self._start(self._ask(group), size)
            finally:
                upcoming.cancel()

    async def _prepare(self, preparer: ThreadPoolExecutor) -> list[Group]:
        """Return the next groups, once requests have arrived."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        requests = [self._waiting.popleft() for _ in range(min(len(self._waiting), WINDOW))]
        if self.conversation.tokenises:
            return await self._loop.run_in_executor(preparer, self.conversation.prepare, requests)
        return self.conversation.prepare(requests)

    async def _ask(self, group: Group) -> None:
        try:
            replies = await self.conversation.answer(group)
        except BudgetSpentError:
            if len(group.requests) == 1:
                raise
            for one in group.split():  # some may still fit
                await self._ask(one)
        else:
            self._done.put(list(zip(group.requests, replies, strict=True)))
