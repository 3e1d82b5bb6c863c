"""Which worker runs what: warm ones first, at most so many at a time, the others in a queue.

More are kept warm than may run at a time: a workflow of three functions that takes turns at the places would otherwise
end the workers of one function to start those of the next, all the time.

On AWS every invocation gets an environment of its own, up to the account's 1,000. Here those beyond the cap wait for a
worker, except where a function has reserved concurrency and is at it: then it is throttled, as on AWS.
"""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from local_aws.functions.function import FunctionVersion
from local_aws.functions.worker import Worker
from local_aws.json_protocol import ServiceError

CAP = 4 * (os.cpu_count() or 1)
KEPT = 4 * CAP
NESTED_CAP = 100
IDLE_SECONDS = 300


class Throttled(ServiceError):
    """TooManyRequestsException, with the reason that AWS gives with it."""

    def __init__(self, reason: str):
        super().__init__("TooManyRequestsException", "Rate Exceeded.", 429)
        self.reason = reason


class Pool:
    """The workers of one server. All methods may be called from any thread."""

    def __init__(
        self,
        start: Callable[[FunctionVersion], Worker],
        cap: int = CAP,
        kept: int = KEPT,
        nested_cap: int = NESTED_CAP,
        idle_seconds: float = IDLE_SECONDS,
    ):
        self._start = start
        self._kept = kept
        self._slots = threading.Semaphore(cap)
        self._nested_slots = threading.Semaphore(nested_cap)
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._idle: list[tuple[float, Worker]] = []  # the moment it fell idle; the longest idle comes first
        self._busy: set[Worker] = set()
        self._running: Counter[tuple[str, str]] = Counter()  # by function name and region
        self._closed = threading.Event()
        threading.Thread(target=self._reap, name="reap idle workers", daemon=True).start()

    @contextlib.contextmanager
    def borrow(self, function: FunctionVersion, is_nested: bool) -> Iterator[Worker]:
        """A worker of that function for one invocation; waits for one where the cap is reached.

        A nested invocation, one that a handler waits for, never waits for a place: it could be its caller's. It is
        known by the trace id that boto3 passes on; a handler that waits for a function in another way, as through a
        state machine, may wait until its timeout. Raises Throttled.
        """
        with self._admitted(function), self._nested_place() if is_nested else self._slots:
            worker = self._take(function)
            try:
                yield worker
            finally:
                self._give_back(worker)

    def close(self) -> None:
        """Kills every worker; invocations under way end with an error."""
        with self._lock:
            self._closed.set()
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for worker in busy:
            worker.kill()
        for _, worker in idle:
            worker.close()

    @contextlib.contextmanager
    def _admitted(self, function: FunctionVersion) -> Iterator[None]:
        reserved = function.reserved_concurrency
        with self._lock:
            if reserved is not None and self._running[function.name, function.region] >= reserved:
                raise Throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
            self._running[function.name, function.region] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[function.name, function.region] -= 1

    @contextlib.contextmanager
    def _nested_place(self) -> Iterator[None]:
        if not self._nested_slots.acquire(blocking=False):
            raise Throttled("ConcurrentInvocationLimitExceeded")
        try:
            yield
        finally:
            self._nested_slots.release()

    def _take(self, function: FunctionVersion) -> Worker:
        with self._lock:
            self._refuse_when_closed()
            outdated = self._take_idle(lambda worker: worker.function.is_another_state_of(function))
            unusable = self._take_idle(lambda worker: not worker.is_usable)
            warm = self._take_newest_idle(function)
            if warm is not None:
                self._busy.add(warm)
            superfluous = [] if warm else self._make_room()
        for worker in outdated + unusable + superfluous:
            worker.close()
        return warm or self._start_new(function)

    def _take_idle(self, condition: Callable[[Worker], bool]) -> list[Worker]:
        taken = [entry for entry in self._idle if condition(entry[1])]
        self._idle = [entry for entry in self._idle if entry not in taken]
        return [worker for _, worker in taken]

    def _take_newest_idle(self, function: FunctionVersion) -> Worker | None:
        for index in reversed(range(len(self._idle))):
            if self._idle[index][1].function == function:
                return self._idle.pop(index)[1]
        return None

    def _make_room(self) -> list[Worker]:
        excess = max(0, len(self._idle) + len(self._busy) + 1 - self._kept)
        removed, self._idle = self._idle[:excess], self._idle[excess:]
        return [worker for _, worker in removed]

    def _start_new(self, function: FunctionVersion) -> Worker:
        worker = self._start(function)
        try:
            with self._lock:
                self._refuse_when_closed()
                self._busy.add(worker)
        except ServiceError:
            worker.close()
            raise
        return worker

    def _refuse_when_closed(self) -> None:
        if self._closed.is_set():
            raise ServiceError("ServiceException", "The local AWS is stopping", 500)

    def _give_back(self, worker: Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
            has_room = len(self._idle) + len(self._busy) < self._kept
            keep = has_room and not self._closed.is_set() and worker.is_usable
            if keep:
                self._idle.append((time.monotonic(), worker))
        if not keep:
            worker.close()

    def _reap(self) -> None:
        while not self._closed.wait(min(self._idle_seconds / 2, 10)):
            oldest = time.monotonic() - self._idle_seconds
            with self._lock:
                too_old = [worker for moment, worker in self._idle if moment < oldest]
                self._idle = [entry for entry in self._idle if entry[0] >= oldest]
            for worker in too_old:
                worker.close()
