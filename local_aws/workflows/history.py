"""The events of one execution, in order. The first event that ends the execution closes it."""

import threading
import time

from moto.stepfunctions.parser.api import HistoryEventType
from moto.stepfunctions.parser.asl.eval.event.event_manager import EventHistoryContext

MAX_EVENTS = 25_000
ENDS = {
    "ExecutionSucceeded": "SUCCEEDED",
    "ExecutionFailed": "FAILED",
    "ExecutionTimedOut": "TIMED_OUT",
    "ExecutionAborted": "ABORTED",
}


class History:
    """What moto's interpreter knows as an environment's event manager.

    execution is told when it ends, once, by execution.ended(status, time, details); what its threads may still add is
    dropped. Of EXPRESS executions the service keeps no history, so nothing is kept here either.
    """

    def __init__(self, execution, keeps_events: bool):
        self.execution = execution
        self.events: list[dict] = []
        self._keeps_events = keeps_events
        self._lock = threading.Lock()
        self._last_id = 0
        self._closed = False
        self._last_evaluation_failure = None

    def add_event(
        self,
        context: EventHistoryContext,
        event_type: HistoryEventType,
        event_details: dict | None = None,
        timestamp=None,
        update_source_event_id: bool = True,
    ) -> int:
        kind, now = event_type.value, time.time()
        with self._lock:
            if self._closed or self._is_repeated(kind, event_details):
                return self._last_id
            if self._keeps_events and self._last_id == MAX_EVENTS - 1 and kind not in ENDS:
                kind, event_details = "ExecutionFailed", _too_many_events()
            self._last_id += 1
            event_id, previous = self._last_id, context.source_event_id
            context.last_published_event_id = event_id
            if update_source_event_id:
                context.source_event_id = event_id
            if self._keeps_events:
                event = {"timestamp": now, "type": kind, "id": event_id, "previousEventId": previous}
                self.events.append({**event, **(event_details or {})})
            self._closed = kind in ENDS
        if kind in ENDS:
            self.execution.ended(ENDS[kind], now, next(iter((event_details or {}).values()), {}))
        return event_id

    def _is_repeated(self, kind: str, details: dict | None) -> bool:
        """moto's states report a failed evaluation again, which was recorded where it happened."""
        if kind != "EvaluationFailed":
            return False
        failure = details["evaluationFailedEventDetails"]
        repeated = failure is self._last_evaluation_failure
        self._last_evaluation_failure = failure
        return repeated


def _too_many_events() -> dict:
    cause = f"The execution reached the maximum number of history events ({MAX_EVENTS})."
    return {"executionFailedEventDetails": {"error": "States.Runtime", "cause": cause}}
