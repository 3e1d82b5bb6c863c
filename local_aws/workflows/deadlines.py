"""Calls functions when their time has come, all on one thread."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Deadlines:
    def __init__(self):
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="deadlines", daemon=True).start()

    def add(self, seconds: float, function: Callable[[], None]) -> None:
        """Calls the function once, that many seconds from now."""
        with self._changed:
            heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._numbers), function))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            self._next()()

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                left = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._waiting)[-1]
                self._changed.wait(left)
