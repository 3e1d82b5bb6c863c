"""One execution of a state machine, from its start to its end, and what is kept of it afterwards."""

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from moto.stepfunctions.parser.api import HistoryEventType
from moto.stepfunctions.parser.asl.component.program.program import Program
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.evaluation_details import AWSExecutionDetails
from moto.stepfunctions.parser.asl.eval.event.event_manager import EventHistoryContext
from moto.stepfunctions.parser.utils import TMP_THREADS

from local_aws.workflows.history import History

EXPRESS_SECONDS = 300
MAX_PAYLOAD_BYTES = 262_144


@dataclass(frozen=True)
class Machine:
    """What an execution runs: a state machine as it was when the execution started, or the inside of a Map Run."""

    arn: str
    name: str
    type: str
    role_arn: str
    definition: str
    update_date: float
    program: Program
    timeout_seconds: float | None = None
    version_arn: str | None = None
    alias_arn: str | None = None

    def execution_arn(self, name: str) -> str:
        if self.type == "EXPRESS":
            return f"{self.arn.replace(':stateMachine:', ':express:')}:{name}:{uuid.uuid4()}"
        return f"{self.arn.replace(':stateMachine:', ':execution:')}:{name}"


class Execution:
    """status is RUNNING, SUCCEEDED, FAILED, TIMED_OUT or ABORTED; times are seconds since 1970.

    start() runs it on a thread of its own, run() on the caller's. stop() ends it at once: a function that it has
    invoked goes on, as on AWS, but its result goes nowhere.
    """

    def __init__(self, workflows, machine: Machine, name: str, input_text: str, map_run=None):
        self.account, self.region = workflows.account, machine.arn.split(":")[3]
        self.workflows, self.machine, self.name, self.map_run = workflows, machine, name, map_run
        self.arn = machine.execution_arn(name)
        self.status, self.start_date = "RUNNING", time.time()
        self.stop_date: float | None = None
        self.output: str | None = None
        self.error: str | None = None
        self.cause: str | None = None
        self.map_runs: list = []
        self._input: str | None = input_text
        self._history: History | None = History(self, machine.type == "STANDARD")
        self._archived: tuple[int, int] | None = None
        self._over = threading.Event()
        self.environment = self._new_environment(json.loads(input_text))

    def _new_environment(self, input_value) -> Environment:
        context = {
            "Execution": {
                "Id": self.arn,
                "Input": input_value,
                "StartTime": iso_date(self.start_date),
                "Name": self.name,
                "RoleArn": self.machine.role_arn,
                "RedriveCount": 0,
            },
            "StateMachine": {"Id": self.machine.arn, "Name": self.machine.name},
        }
        environment = Environment(
            aws_execution_details=AWSExecutionDetails(self.account, self.region, self.machine.role_arn),
            execution_type=self.machine.type,
            context=context,
            event_history_context=EventHistoryContext.of_program_start(),
            cloud_watch_logging_session=None,
            activity_store={},
        )
        environment.event_manager = self._history
        environment.next_state_name = self.machine.program.start_at.start_at_name  # from now on it can be stopped
        return environment

    def start(self) -> None:
        threading.Thread(target=self.run, name=f"execution {self.name}", daemon=True).start()

    def run(self) -> None:
        """Runs it to its end. One that has been stopped before does not begin."""
        environment, history = self.environment, self._history
        if environment is None or history is None:
            return
        details = {"input": self._input, "inputDetails": {"truncated": False}, "roleArn": self.machine.role_arn}
        history.add_event(
            environment.event_history_context,
            HistoryEventType.ExecutionStarted,
            {"executionStartedEventDetails": details},
            update_source_event_id=False,
        )
        self.workflows.status_changed(self)
        if limit := self._limit_seconds():
            self.workflows.deadlines.add(limit, self.time_out)
        try:
            self.machine.program.eval(environment)
        except Exception as error:  # of the interpreter itself; whoever waits for this execution must hear of it
            details = {"error": "States.Runtime", "cause": f"{type(error).__name__}: {error}"}
            history.add_event(
                environment.event_history_context,
                HistoryEventType.ExecutionFailed,
                {"executionFailedEventDetails": details},
            )
        TMP_THREADS.clear()  # moto's list of all threads it ever started

    def _limit_seconds(self) -> float | None:
        if self.machine.type == "EXPRESS":
            return min(self.machine.timeout_seconds or EXPRESS_SECONDS, EXPRESS_SECONDS)
        return self.machine.timeout_seconds

    def stop(self, error: str | None = None, cause: str | None = None) -> None:
        given = {name: value for name, value in (("error", error), ("cause", cause)) if value is not None}
        self._end_from_outside(
            HistoryEventType.ExecutionAborted,
            {"executionAbortedEventDetails": given},
            lambda environment: environment.set_stop(None, cause, error),
        )

    def time_out(self) -> None:
        self._end_from_outside(
            HistoryEventType.ExecutionTimedOut,
            {"executionTimedOutEventDetails": {}},
            lambda environment: environment.set_timed_out(),
        )

    def _end_from_outside(self, event: HistoryEventType, details: dict, tell: Callable) -> None:
        environment, history = self.environment, self._history
        if environment is None or history is None:
            return
        history.add_event(EventHistoryContext.of_program_start(), event, details)
        tell(environment)
        for waiting_task in list(environment.callback_pool_manager._pool.values()):
            waiting_task.interrupt_all()
        for map_run in list(self.map_runs):
            map_run.abort()

    def ended(self, status: str, moment: float, details: dict) -> None:
        """Called by the history, once."""
        self.output, self.error, self.cause = details.get("output"), details.get("error"), details.get("cause")
        self.stop_date = moment
        content = {"input": self._input, "output": self.output, "events": self._history.events}
        try:
            self._archived = self.workflows.archive.put(content)
        except OSError:
            self._archived = None  # no room on the disk: it stays in memory
        self.status = status
        if self.map_run:
            self.map_run.child_ended(self)
        self.environment = None
        if self._archived:
            self._history = None  # before the rest, see content()
            self._input = self.output = None
        self._over.set()
        self.workflows.status_changed(self)

    def wait(self) -> None:
        self._over.wait()

    def content(self) -> dict:
        """Its input and output as JSON texts, and its events; the output is None where there is none (yet)."""
        text, output = self._input, self.output
        history = self._history  # read last: while it is there, so is the rest
        if history is None:
            return self.workflows.archive.get(self._archived)
        return {"input": text, "output": output, "events": list(history.events)}


def iso_date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
