"""A bounded number of asks open at a server, in an event loop of its own thread.

Asks are prepared and handed to the loop as there is room for them. Where one fails for good, no more is sent, replies
on their way are waited for and handed over, and then the failure is raised.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from functools import partial

from ..base import Answered, Request
from .conversation import Conversation
from .forms import Group
from .limits import BudgetSpentError

WINDOW = 64  # requests that are prepared at once, at most


class Dispatch:
    """Requests on their way to a server and back; `max_open` asks are open at once, as far as groups allow."""

    def __init__(self, conversation: Conversation, max_open: int) -> None:
        self.conversation, self.max_open = conversation, max_open
        self._waiting: deque[Request] = deque()
        self._groups: deque[Group] = deque()
        # What the loop hands over: asks that are open no more, replies, a failure.
        self._done: queue.SimpleQueue[tuple[int, Answered, BaseException | None]] = queue.SimpleQueue()
        self._open, self._begun = 0, False
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        # A daemon: after Ctrl-C nothing waits for a server.
        self._thread = threading.Thread(target=self._loop.run_forever, name="r2llm-server", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        self._waiting.extend(requests)

    def collect(self) -> Answered:
        """Wait until some are answered and return those; nothing if none is outstanding.

        Raises the failure of a request when all others that were under way are handed over.
        """
        answered: Answered = []
        self._send()
        while self._open and (not answered or not self._done.empty()):
            ended, replies, error = self._done.get()
            self._open -= ended
            answered += replies
            if error is not None and self._failure is None:
                self._fail(error)
            self._send()
        if not answered and self._failure is not None:
            raise self._failure
        return answered

    def close(self) -> None:
        """Give up what is under way and end the thread."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self.conversation.end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _send(self) -> None:
        try:
            while self._failure is None and (self._groups or self._waiting):
                if not self._begun:
                    asyncio.run_coroutine_threadsafe(self.conversation.begin(), self._loop).result()
                    self._begun = True
                if not self._groups:
                    requests = [self._waiting.popleft() for _ in range(min(len(self._waiting), WINDOW))]
                    self._groups.extend(self.conversation.prepare(requests))
                size = len(self._groups[0].requests)
                if self._open and self._open + size > self.max_open:
                    break
                self._open += size
                work = asyncio.run_coroutine_threadsafe(self._ask(self._groups.popleft()), self._loop)
                work.add_done_callback(partial(self._ended, size))
        except Exception as error:  # noqa: BLE001 - raised where answers are collected
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._loop.call_soon_threadsafe(self.conversation.halt)

    def _ended(self, asks: int, work: Future[None]) -> None:
        self._done.put((asks, [], CancelledError() if work.cancelled() else work.exception()))

    async def _ask(self, group: Group) -> None:
        try:
            replies = await self.conversation.answer(group)
            self._done.put((0, list(zip(group.requests, replies, strict=True)), None))
        except BudgetSpentError:
            if len(group.requests) == 1:
                raise
            for one in group.split():  # some may still fit
                await self._ask(one)
