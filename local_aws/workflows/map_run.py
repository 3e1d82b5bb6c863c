"""The Map Run: what a distributed Map state starts. Each item, or batch of items, is a child execution.

What Step Functions does that this does not: it runs 10,000 children at a time where MaxConcurrency is 0 or left out;
here at most THREADS run at a time, whatever MaxConcurrency says. It can redrive a Map Run.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from moto.stepfunctions.parser.api import HistoryEventType
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEventException
from moto.stepfunctions.parser.asl.component.program.program import Program
from moto.stepfunctions.parser.asl.eval.environment import Environment

from local_aws.workflows import templates
from local_aws.workflows.execution import Execution, Machine
from local_aws.workflows.failures import map_run_failed, query_failed
from local_aws.workflows.item_reader import ReadFailed, batches, read_items
from local_aws.workflows.result_writer import WriteFailed, results_of

THREADS = 100
COUNTED_AS = {"SUCCEEDED": "succeeded", "FAILED": "failed", "TIMED_OUT": "timedOut", "ABORTED": "aborted"}


@dataclass(frozen=True)
class MapState:
    """A distributed Map as its definition says it, with the program of its children."""

    fields: dict
    language: str
    program: Program

    @property
    def child_type(self) -> str:
        return self.fields["ItemProcessor"]["ProcessorConfig"].get("ExecutionType", "STANDARD")

    def value(self, env: Environment, field: str, default=None):
        """The value of a field that may be a constant, a JSONata string, or a JSONPath in <field>Path."""
        if field in self.fields:
            return templates.evaluate(env, self.fields[field], self.language)
        if f"{field}Path" in self.fields:
            return templates.evaluate_path(env, self.fields[f"{field}Path"])
        return default

    def number(self, env: Environment, field: str, highest: float = float("inf")) -> float | None:
        value = self.value(env, field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= highest:
            raise query_failed(env, f"{field} must be a number from 0 to {highest}, not {json.dumps(value)}")
        return value


def run_map(state: MapState, env: Environment) -> None:
    """Evaluates a distributed Map: pushes its output on the stack, or raises FailureEventException."""
    max_concurrency = int(state.number(env, "MaxConcurrency") or 0)
    items = None if "ItemReader" in state.fields else _inline_items(state, env)
    _event(env, HistoryEventType.MapStateStarted, mapStateStartedEventDetails={"length": len(items or [])})
    run = MapRun(state, env, max_concurrency)
    _event(env, HistoryEventType.MapRunStarted, mapRunStartedEventDetails={"mapRunArn": run.arn})
    try:
        output = run.run(items)
    except Exception as failure:
        run.end("FAILED")
        _event(env, HistoryEventType.MapRunFailed, mapRunFailedEventDetails=_error_and_cause(failure))
        raise
    finally:
        run.forget_items()
    run.end("SUCCEEDED")
    _event(env, HistoryEventType.MapRunSucceeded)
    _event(env, HistoryEventType.MapStateSucceeded, update_source_event_id=False)
    env.stack.append(output)


def _event(env: Environment, kind: HistoryEventType, update_source_event_id: bool = True, **details) -> None:
    env.event_manager.add_event(env.event_history_context, kind, details, update_source_event_id=update_source_event_id)


def _error_and_cause(failure: Exception) -> dict:
    if isinstance(failure, FailureEventException):
        return dict(zip(("error", "cause"), failure.extract_error_cause_pair(), strict=True))
    return {"error": "States.Runtime", "cause": str(failure)}


def _inline_items(state: MapState, env: Environment) -> list:
    if state.language == "JSONata":
        items = state.value(env, "Items", default=env.states.get_input())
    else:
        items = templates.evaluate_path(env, state.fields.get("ItemsPath", "$"))
    if not isinstance(items, list):
        raise query_failed(env, f"The items of the Map state must be an array, not {json.dumps(items)[:200]}")
    return items


class MapRun:
    """status is RUNNING, SUCCEEDED, FAILED or ABORTED. Counts are of items and of child executions."""

    def __init__(self, state: MapState, env: Environment, max_concurrency: int):
        self.execution: Execution = env.event_manager.execution
        self.max_concurrency = max_concurrency
        self.tolerated_count = state.number(env, "ToleratedFailureCount")
        self.tolerated_percentage = state.number(env, "ToleratedFailurePercentage", highest=100)
        self.item_counts, self.execution_counts = _no_counts(), _no_counts()
        self.status, self.start_date = "RUNNING", time.time()
        self.stop_date: float | None = None
        self.children: list[Execution] = []
        self._state, self._env = state, env
        self._machine = self._child_machine()
        self.arn = f"{self._machine.arn.replace(':stateMachine:', ':mapRun:')}:{uuid.uuid4()}"
        self._changed = threading.Condition()
        self._threads = 0
        self._stopping = False
        self._failure: Exception | None = None
        self._running: dict[Execution, tuple[int, int]] = {}  # the index and the number of items of each child
        self.execution.map_runs.append(self)
        self.execution.workflows.add_map_run(self)

    def _child_machine(self) -> Machine:
        parent, label = self.execution.machine, self._state.fields.get("Label") or str(uuid.uuid4())
        return Machine(
            arn=f"{parent.arn}/{label}",
            name=f"{parent.name}/{label}",
            type=self._state.child_type,
            role_arn=parent.role_arn,
            definition=json.dumps(self._state.fields["ItemProcessor"]),
            update_date=parent.update_date,
            program=self._state.program,
        )

    @property
    def machine_arn(self) -> str:
        return self._machine.arn

    def run(self, items: list | None):
        """Runs all children and returns the state's output. Raises FailureEventException."""
        try:
            if items is None:
                items = read_items(self._state, self._env, self.execution.workflows.server)
        except ReadFailed as error:
            raise map_run_failed(self._env, "States.ItemReaderFailed", str(error)) from error
        self._inputs: Iterator[tuple[int, tuple[int, object]]] = enumerate(self._make_inputs(items))
        self._results = results_of(self._state, self._env, self)
        self._run_children()
        if self._failure:
            raise self._failure
        if self.status == "ABORTED":
            return None
        try:
            return self._results.output()
        except WriteFailed as error:
            raise map_run_failed(self._env, "States.ResultWriterFailed", str(error)) from error

    def _make_inputs(self, items: list) -> Iterator[tuple[int, object]]:
        """(number of items, input) of each child, made when it is asked for; sets the counts."""
        inputs = self._select(items) if "ItemSelector" in self._state.fields else iter(items)
        counted: Iterator = ((1, child_input) for child_input in inputs)
        children = len(items)
        if "ItemBatcher" in self._state.fields:
            made = batches(self._state, self._env, list(inputs))
            counted, children = iter(made), len(made)
        for counts, total in ((self.item_counts, len(items)), (self.execution_counts, children)):
            counts["total"] = counts["pending"] = total
        return counted

    def _select(self, items: list) -> Iterator:
        selector, frame = self._state.fields["ItemSelector"], self._env.open_frame()
        frame.states._states_data["input"] = self._env.states._states_data["input"]
        for index, item in enumerate(items):
            frame.states.context_object.context_object_data["Map"] = {"Item": {"Index": index, "Value": item}}
            yield templates.evaluate(frame, selector, self._state.language)
        self._env.delete_frame(frame)

    def _run_children(self) -> None:
        with self._changed:
            self._start_threads()
            self._changed.wait_for(self._is_over)

    def _start_threads(self) -> None:
        for _ in range(min(self._allowed_threads() - self._threads, self.execution_counts["pending"])):
            self._threads += 1
            threading.Thread(target=self._work, name=f"map run {self.arn[-8:]}", daemon=True).start()

    def _allowed_threads(self) -> int:
        return min(self.max_concurrency or THREADS, THREADS)

    def _is_over(self) -> bool:
        return not self._running and (self._stopping or self.execution_counts["pending"] == 0)

    def _work(self) -> None:
        """One thread: runs one child after the other."""
        while child := self._next_child():
            child.run()
        if self._failure:
            self._stop_children()

    def _next_child(self) -> Execution | None:
        with self._changed:
            if self._stopping or self.execution_counts["pending"] == 0 or self._threads > self._allowed_threads():
                self._threads -= 1
                return None
            try:
                index, (size, child_input) = next(self._inputs)
            except Exception as failure:  # the ItemSelector's; run() raises it again
                self._stop(failure)
                self._threads -= 1
                return None
            child = Execution(
                self.execution.workflows, self._machine, str(uuid.uuid4()), json.dumps(child_input), map_run=self
            )
            self.children.append(child)
            self._running[child] = index, size
            self._count("pending", "running", size)
        self.execution.workflows.add(child)
        return child

    def _count(self, before: str, after: str, items: int) -> None:
        for counts, number in ((self.item_counts, items), (self.execution_counts, 1)):
            counts[before] -= number
            counts[after] += number

    def child_ended(self, child: Execution) -> None:
        """Called by a child, once, while it still has its input and its output."""
        with self._changed:
            index, items = self._running[child]
        failure = self._keep_result(index, child)
        with self._changed:
            del self._running[child]
            self._count("running", COUNTED_AS[child.status], items)
            if not self._stopping and (failure or self._exceeds_tolerance()):
                cause = "The specified tolerated failure threshold was exceeded"
                self._stop(failure or map_run_failed(self._env, "States.ExceedToleratedFailureThreshold", cause))
            self._changed.notify_all()

    def _keep_result(self, index: int, child: Execution) -> Exception | None:
        try:
            self._results.add(index, child)
        except OSError as error:
            return map_run_failed(self._env, "States.ResultWriterFailed", f"The result cannot be kept: {error}")
        return None

    def _exceeds_tolerance(self) -> bool:
        failed, total = self.item_counts["failed"] + self.item_counts["timedOut"], self.item_counts["total"]
        if self.tolerated_count is None and self.tolerated_percentage is None:
            return failed > 0
        return (self.tolerated_count is not None and failed > self.tolerated_count) or (
            self.tolerated_percentage is not None and failed * 100 > self.tolerated_percentage * total
        )

    def _stop(self, failure: Exception | None) -> None:
        """No child is started any more."""
        self._stopping, self._failure = True, failure
        for counts in (self.item_counts, self.execution_counts):
            counts["aborted"] += counts["pending"]
            counts["pending"] = 0
        self._changed.notify_all()

    def _stop_children(self) -> None:
        with self._changed:
            running = list(self._running)
        for child in running:
            child.stop()

    def abort(self) -> None:
        """Ends it with the execution it belongs to."""
        with self._changed:
            if self.status != "RUNNING":
                return
            self.end("ABORTED")
            self._stop(None)
        self._stop_children()

    def end(self, status: str) -> None:
        if self.status == "RUNNING":
            self.status, self.stop_date = status, time.time()

    def forget_items(self) -> None:
        """What a Map Run that has ended still holds does not grow with its items' sizes."""
        self._inputs, self._results = iter(()), None

    def results_written(self) -> None:
        """Counts what the result files hold: every child that has ended."""
        for counts in (self.item_counts, self.execution_counts):
            counts["resultsWritten"] = sum(counts[name] for name in COUNTED_AS.values())

    def update(self, max_concurrency: int | None, tolerated_count: int | None, tolerated_percentage: float | None):
        """What is None stays as it is."""
        with self._changed:
            if tolerated_count is not None:
                self.tolerated_count = tolerated_count
            if tolerated_percentage is not None:
                self.tolerated_percentage = tolerated_percentage
            if max_concurrency is not None:
                self.max_concurrency = max_concurrency
                self._start_threads()

    def describe(self) -> dict:
        with self._changed:
            return {
                "status": self.status,
                "maxConcurrency": self.max_concurrency,
                "toleratedFailureCount": int(self.tolerated_count or 0),
                "toleratedFailurePercentage": self.tolerated_percentage or 0,
                "itemCounts": dict(self.item_counts),
                "executionCounts": dict(self.execution_counts),
                "redriveCount": 0,
            }


def _no_counts() -> dict[str, int]:
    names = ("pending", "running", "succeeded", "failed", "timedOut", "aborted", "total", "resultsWritten")
    return dict.fromkeys(names, 0)
