"""Step Functions' executions: state machines are moto's records, what runs them is here.

What Step Functions does that this does not: activities, redriving, logging to CloudWatch Logs, tracing, encryption and
TestState. Quotas on rates are not kept.
"""

import json
import threading
import time
import uuid

from flask import Flask

from local_aws import records
from local_aws.json_protocol import ServiceError, hook, request_region
from local_aws.workflows.deadlines import Deadlines
from local_aws.workflows.execution import Archive, Execution, Machine
from local_aws.workflows.map_run import MapRun
from local_aws.workflows.moto_interpreter import install, parse


class Workflows:
    """The executions and Map Runs of one server."""

    account = records.ACCOUNT

    def __init__(self, server):
        self.server = server
        self.archive = Archive(server.run_folder / "executions")
        self.deadlines = Deadlines()
        self._executions: dict[str, Execution] = {}
        self._map_runs: dict[str, MapRun] = {}
        self._lock = threading.Lock()
        server.at_stop(self.archive.close)
        install(server)

    def attach(self, service: str, app: Flask) -> None:
        if service != "stepfunctions":
            return
        operations = {
            "StartExecution": self._start_execution,
            "StopExecution": self._stop_execution,
            "DescribeExecution": self._describe_execution,
            "ListExecutions": self._list_executions,
            "GetExecutionHistory": self._get_execution_history,
            "DescribeMapRun": self._describe_map_run,
            "DescribeStateMachineForExecution": self._describe_state_machine_for_execution,
            "ListMapRuns": self._list_map_runs,
        }
        hook(app, before=operations, after={})

    def add(self, execution: Execution) -> None:
        with self._lock:
            self._executions[execution.arn] = execution

    def add_map_run(self, map_run: MapRun) -> None:
        with self._lock:
            self._map_runs[map_run.arn] = map_run

    def status_changed(self, execution: Execution) -> None:
        pass

    def _start_execution(self, call: dict) -> dict:
        machine = self._machine(call["stateMachineArn"])
        name = call.get("name") or str(uuid.uuid4())
        text = call.get("input") or "{}"
        _check_input(text)
        execution = Execution(self, machine, name, text)
        with self._lock:
            existing = self._executions.setdefault(execution.arn, execution)
        if existing is not execution:
            if existing.status != "RUNNING" or json.loads(existing.content()["input"]) != json.loads(text):
                raise ServiceError("ExecutionAlreadyExists", f"Execution Already Exists: '{existing.arn}'")
            return {"executionArn": existing.arn, "startDate": existing.start_date}
        execution.start()
        return {"executionArn": execution.arn, "startDate": execution.start_date}

    def _machine(self, arn: str) -> Machine:
        backend = records.step_functions(request_region(self.server.region))
        for record in backend.state_machines:
            if record.arn == arn:
                definition = json.loads(record.definition)
                return Machine(
                    arn=record.arn,
                    name=record.name,
                    type=record.type or "STANDARD",
                    role_arn=record.roleArn,
                    program=parse(record.definition),
                    timeout_seconds=definition.get("TimeoutSeconds"),
                )
        raise ServiceError("StateMachineDoesNotExist", f"State Machine Does Not Exist: '{arn}'")

    def _execution(self, arn: str) -> Execution:
        if arn not in self._executions:
            raise ServiceError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")
        return self._executions[arn]

    def _stop_execution(self, call: dict) -> dict:
        execution = self._execution(call["executionArn"])
        execution.stop(call.get("error"), call.get("cause"))
        return {"stopDate": execution.stop_date or time.time()}

    def _describe_execution(self, call: dict) -> dict:
        execution = self._execution(call["executionArn"])
        content = execution.content()
        answer = {**_summary(execution), "input": content["input"], "inputDetails": {"included": True}}
        if content["output"] is not None:
            answer.update(output=content["output"], outputDetails={"included": True})
        if execution.error is not None:
            answer["error"] = execution.error
        if execution.cause is not None:
            answer["cause"] = execution.cause
        return answer

    def _describe_state_machine_for_execution(self, call: dict) -> dict:
        arn = self._execution(call["executionArn"]).machine.arn.split("/")[0]  # a child's is its parent's, by its label
        machine = records.step_functions(request_region(self.server.region)).describe_state_machine(arn)
        return {
            "stateMachineArn": machine.arn,
            "name": machine.name,
            "definition": machine.definition,
            "roleArn": machine.roleArn,
            "updateDate": machine.update_date.timestamp(),
        }

    def _list_executions(self, call: dict) -> dict:
        if "mapRunArn" in call:
            found = list(self._map_run(call["mapRunArn"]).children)
        else:
            found = [each for each in list(self._executions.values()) if each.machine.arn == call["stateMachineArn"]]
        return {"executions": [_summary(each) for each in reversed(found)]}

    def _get_execution_history(self, call: dict) -> dict:
        return {"events": self._execution(call["executionArn"]).content()["events"]}

    def _map_run(self, arn: str) -> MapRun:
        if arn not in self._map_runs:
            raise ServiceError("ResourceNotFound", f"Resource not found: '{arn}'")
        return self._map_runs[arn]

    def _describe_map_run(self, call: dict) -> dict:
        run = self._map_run(call["mapRunArn"])
        return {
            **_map_run_summary(run),
            "status": run.status,
            "maxConcurrency": run.max_concurrency,
            "toleratedFailureCount": run.tolerated_count or 0,
            "toleratedFailurePercentage": run.tolerated_percentage or 0,
            "itemCounts": dict(run.item_counts),
            "executionCounts": dict(run.execution_counts),
            "redriveCount": 0,
        }

    def _list_map_runs(self, call: dict) -> dict:
        runs = self._execution(call["executionArn"]).map_runs
        return {"mapRuns": [_map_run_summary(run) for run in runs]}


def _check_input(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise ServiceError("InvalidExecutionInput", f"Invalid State Machine Execution Input: '{error}'") from error


def _summary(execution: Execution) -> dict:
    summary = {
        "executionArn": execution.arn,
        "stateMachineArn": execution.machine.arn,
        "name": execution.name,
        "status": execution.status,
        "startDate": execution.start_date,
        "redriveCount": 0,
    }
    if execution.stop_date is not None:
        summary["stopDate"] = execution.stop_date
    if execution.map_run is not None:
        summary["mapRunArn"] = execution.map_run.arn
    return summary


def _map_run_summary(run: MapRun) -> dict:
    summary = {
        "executionArn": run.execution.arn,
        "mapRunArn": run.arn,
        "stateMachineArn": run.machine_arn,
        "startDate": run.start_date,
    }
    if run.stop_date is not None:
        summary["stopDate"] = run.stop_date
    return summary
