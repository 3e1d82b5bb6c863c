"""The operations of Step Functions that concern definitions, executions and Map Runs: request in, answer out."""

import json
import math
import time
import uuid
from collections.abc import Callable
from itertools import islice

from moto.stepfunctions.parser.asl.eval.callback.callback import (
    CallbackOutcome,
    CallbackOutcomeFailure,
    CallbackOutcomeSuccess,
)

from local_aws.json_protocol import ServiceError
from local_aws.workflows.definition import Fault, faults
from local_aws.workflows.execution import MAX_PAYLOAD_BYTES, Execution, Machine
from local_aws.workflows.map_run import MapRun
from local_aws.workflows.moto_interpreter import parse

MAX_PAGE = 1000
EXECUTION_DATA = ("input", "inputDetails", "output", "outputDetails")
FORBIDDEN_IN_NAMES = set(' \t\n<>{}[]?*"#%\\^|~`$&,;:/')


class Api:
    """operations: the answer to each operation, by its name. All raise ServiceError with the service's own codes."""

    def __init__(self, workflows):
        self._workflows = workflows
        self.operations: dict[str, Callable[[dict], dict | None]] = {
            "ValidateStateMachineDefinition": self.validate,
            "CreateStateMachine": self.check_new_machine,
            "UpdateStateMachine": self.check_update,
            "StartExecution": self.start_execution,
            "StartSyncExecution": self.start_sync_execution,
            "StopExecution": self.stop_execution,
            "DescribeExecution": self.describe_execution,
            "DescribeStateMachineForExecution": self.describe_machine_of_execution,
            "ListExecutions": self.list_executions,
            "GetExecutionHistory": self.get_execution_history,
            "DescribeMapRun": self.describe_map_run,
            "ListMapRuns": self.list_map_runs,
            "UpdateMapRun": self.update_map_run,
            "SendTaskSuccess": self.send_task_success,
            "SendTaskFailure": self.send_task_failure,
            "SendTaskHeartbeat": self.send_task_heartbeat,
            **{name: _refuse(name) for name in ("RedriveExecution", "TestState", "GetActivityTask", "CreateActivity")},
        }

    def validate(self, call: dict) -> dict:
        found = all_faults(call["definition"], call.get("type"))[: call.get("maxResults") or 100]
        diagnostics = [
            {"severity": "ERROR", "code": fault.code, "message": fault.message, "location": fault.location}
            for fault in found
        ]
        return {"result": "FAIL" if found else "OK", "diagnostics": diagnostics, "truncated": False}

    def check_new_machine(self, call: dict) -> None:
        _check_definition(call["definition"], call.get("type"))
        existing = self._workflows.find_machine(call["name"])
        if existing and existing.definition != call["definition"]:
            raise ServiceError("StateMachineAlreadyExists", f"State Machine Already Exists: '{existing.arn}'")

    def check_update(self, call: dict) -> None:
        if "definition" in call:
            _check_definition(call["definition"], self._workflows.machine(call["stateMachineArn"]).type)

    def start_execution(self, call: dict) -> dict:
        machine, name, text = self._new_execution(call)
        execution = self._workflows.start(machine, name, text)
        return {"executionArn": execution.arn, "startDate": execution.start_date}

    def start_sync_execution(self, call: dict) -> dict:
        machine, name, text = self._new_execution(call)
        if machine.type != "EXPRESS":
            raise ServiceError("StateMachineTypeNotSupported", f"{machine.arn} is not an EXPRESS state machine")
        execution = self._workflows.run(machine, name, text)
        billed = math.ceil((execution.stop_date - execution.start_date) * 10) * 100
        billing = {"billedMemoryUsedInMB": 64, "billedDurationInMilliseconds": billed}
        return {**_description(execution), "billingDetails": billing}

    def _new_execution(self, call: dict) -> tuple[Machine, str, str]:
        name, text = call.get("name") or str(uuid.uuid4()), call.get("input") or "{}"
        if len(name) > 80 or FORBIDDEN_IN_NAMES & set(name):
            raise ServiceError("InvalidName", f"Invalid Name: '{name}'")
        try:
            json.loads(text)
        except ValueError as error:
            raise ServiceError("InvalidExecutionInput", f"Invalid State Machine Execution Input: '{error}'") from error
        size = len(text.encode())
        if size > MAX_PAYLOAD_BYTES:
            raise ServiceError("InvalidExecutionInput", f"The input has {size} bytes, more than {MAX_PAYLOAD_BYTES}")
        return self._workflows.machine(call["stateMachineArn"]), name, text

    def stop_execution(self, call: dict) -> dict:
        execution = self._workflows.execution(call["executionArn"])
        _needs_standard(execution.machine)
        execution.stop(call.get("error"), call.get("cause"))
        return {"stopDate": execution.stop_date or time.time()}

    def describe_execution(self, call: dict) -> dict:
        return _description(self._workflows.execution(call["executionArn"]))

    def describe_machine_of_execution(self, call: dict) -> dict:
        execution = self._workflows.execution(call["executionArn"])
        machine = execution.machine
        answer = {
            "stateMachineArn": machine.arn,
            "name": machine.name,
            "definition": machine.definition,
            "roleArn": machine.role_arn,
            "updateDate": machine.update_date,
        }
        if execution.map_run:
            answer.update(mapRunArn=execution.map_run.arn, label=machine.name.rsplit("/", 1)[-1])
        return answer

    def list_executions(self, call: dict) -> dict:
        if "mapRunArn" in call:
            found = list(self._workflows.map_run(call["mapRunArn"]).children)
        elif "stateMachineArn" not in call:
            raise ServiceError("ValidationException", "ListExecutions needs a stateMachineArn or a mapRunArn")
        else:
            machine = self._workflows.machine(call["stateMachineArn"])
            _needs_standard(machine)
            found = self._workflows.executions_of(machine)
        # A token is the number of a page's last execution, so that those started meanwhile do not shift the pages.
        before = min(_token(call, default=len(found)), len(found))
        wanted, size = call.get("statusFilter"), _page_size(call)
        newest_first = ((number, found[number]) for number in reversed(range(before)))
        matching = (each for each in newest_first if wanted in (None, each[1].status))
        page, following = list(islice(matching, size)), next(matching, None)
        answer: dict = {"executions": [_summary(each) for _, each in page]}
        if following:
            answer["nextToken"] = str(page[-1][0])
        return answer

    def get_execution_history(self, call: dict) -> dict:
        execution = self._workflows.execution(call["executionArn"])
        _needs_standard(execution.machine)
        events = execution.content()["events"]
        if call.get("reverseOrder"):
            events = events[::-1]
        start, size = _token(call, default=0), _page_size(call)
        page = events[start : start + size]
        if call.get("includeExecutionData") is False:
            page = [_without_data(event) for event in page]
        answer = {"events": page}
        if start + size < len(events):
            answer["nextToken"] = str(start + size)
        return answer

    def describe_map_run(self, call: dict) -> dict:
        run = self._workflows.map_run(call["mapRunArn"])
        return {**_map_run_summary(run), **run.describe()}

    def list_map_runs(self, call: dict) -> dict:
        runs = self._workflows.execution(call["executionArn"]).map_runs
        start, size = _token(call, default=0), _page_size(call)
        answer: dict = {"mapRuns": [_map_run_summary(run) for run in runs[start : start + size]]}
        if start + size < len(runs):
            answer["nextToken"] = str(start + size)
        return answer

    def update_map_run(self, call: dict) -> dict:
        self._workflows.map_run(call["mapRunArn"]).update(
            call.get("maxConcurrency"), call.get("toleratedFailureCount"), call.get("toleratedFailurePercentage")
        )
        return {}

    def send_task_success(self, call: dict) -> dict:
        try:
            json.loads(call["output"])
        except ValueError as error:
            raise ServiceError("InvalidOutput", f"Invalid Output: '{error}'") from error
        return self._end_task(CallbackOutcomeSuccess(call["taskToken"], call["output"]))

    def send_task_failure(self, call: dict) -> dict:
        return self._end_task(CallbackOutcomeFailure(call["taskToken"], call.get("error"), call.get("cause")))

    def _end_task(self, outcome: CallbackOutcome) -> dict:
        waiting = self._workflows.waiting_task(outcome.callback_id)
        if waiting.get_outcome() is not None:
            raise ServiceError("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'")
        waiting.notify(outcome)
        return {}

    def send_task_heartbeat(self, call: dict) -> dict:
        self._workflows.waiting_task(call["taskToken"]).notify_heartbeat()
        return {}


def _refuse(operation: str) -> Callable[[dict], dict]:
    def refuse(call: dict) -> dict:
        raise ServiceError("ValidationException", f"The local AWS does not support {operation}")

    return refuse


def all_faults(definition: str, machine_type: str | None) -> list[Fault]:
    found = faults(definition, machine_type or "STANDARD")
    if not found:
        try:
            parse(definition)
        except Exception as error:  # the parser raises whatever it stumbles over
            return [Fault("SCHEMA_VALIDATION_FAILED", f"{type(error).__name__}: {error}", "/")]
    return found


def _check_definition(definition: str, machine_type: str | None) -> None:
    if found := all_faults(definition, machine_type):
        raise ServiceError("InvalidDefinition", f"Invalid State Machine Definition: '{', '.join(map(str, found))}'")


def _needs_standard(machine: Machine) -> None:
    if machine.type != "STANDARD":
        raise ServiceError(
            "StateMachineTypeNotSupported", "This operation is not supported by this type of state machine"
        )


def _page_size(call: dict) -> int:
    size = call.get("maxResults") or 100
    if not 0 < size <= MAX_PAGE:
        raise ServiceError("ValidationException", f"maxResults is a number from 0 to {MAX_PAGE}, not {size}")
    return size


def _token(call: dict, default: int) -> int:
    token = call.get("nextToken")
    if token is None:
        return default
    if not token.isdecimal():
        raise ServiceError("InvalidToken", f"Invalid Token: '{token}'")
    return int(token)


def _without_data(event: dict) -> dict:
    return {
        name: {key: value for key, value in member.items() if key not in EXECUTION_DATA}
        if isinstance(member, dict)
        else member
        for name, member in event.items()
    }


def _description(execution: Execution) -> dict:
    description, content = _summary(execution), execution.content()
    description.update(input=content["input"], inputDetails={"included": True})
    if description["status"] == "SUCCEEDED":
        description.update(output=content["output"], outputDetails={"included": True})
    elif description["status"] != "RUNNING":
        description.update(_given({"error": execution.error, "cause": execution.cause}))
    return description


def _summary(execution: Execution) -> dict:
    machine, status = execution.machine, execution.status
    given = {
        "stopDate": None if status == "RUNNING" else execution.stop_date,
        "mapRunArn": execution.map_run and execution.map_run.arn,
        "stateMachineVersionArn": machine.version_arn,
        "stateMachineAliasArn": machine.alias_arn,
    }
    return {
        "executionArn": execution.arn,
        "stateMachineArn": machine.arn,
        "name": execution.name,
        "status": status,
        "startDate": execution.start_date,
        "redriveCount": 0,
        **_given(given),
    }


def _map_run_summary(run: MapRun) -> dict:
    return {
        "executionArn": run.execution.arn,
        "mapRunArn": run.arn,
        "stateMachineArn": run.machine_arn,
        "startDate": run.start_date,
        **_given({"stopDate": run.stop_date}),
    }


def _given(members: dict) -> dict:
    return {name: value for name, value in members.items() if value is not None}
