"""Step Functions' executions: state machines are moto's records; checking and running them is done here.

What Step Functions does that this does not: activities, redriving, TestState, logging to CloudWatch Logs, tracing,
encryption, quotas on rates. Roles are kept and not enforced. StartSyncExecution goes to the host sync-<endpoint>, which
does not exist here: set AWS_DISABLE_HOST_PREFIX_INJECTION=true, or inject_host_prefix=False in the client's Config.
"""

import json
import random
import threading

from flask import Flask

from local_aws import records
from local_aws.json_protocol import ServiceError, hook, request_region
from local_aws.workflows.api import Api
from local_aws.workflows.archive import Archive
from local_aws.workflows.deadlines import Deadlines
from local_aws.workflows.execution import Execution, Machine
from local_aws.workflows.map_run import MapRun
from local_aws.workflows.moto_interpreter import install, parse
from local_aws.workflows.status_events import StatusEvents


class Workflows:
    """The executions and Map Runs of one server, by their ARNs."""

    account = records.ACCOUNT

    def __init__(self, server):
        self.server = server
        self.archive = Archive(server.run_folder / "executions")
        self.deadlines = Deadlines()
        self._events = StatusEvents(server)
        self._executions: dict[str, Execution] = {}
        self._map_runs: dict[str, MapRun] = {}
        self._lock = threading.Lock()
        install(server)

    def attach(self, service: str, app: Flask) -> None:
        if service == "stepfunctions":
            hook(app, before=Api(self).operations, after={"DeleteStateMachine": self._forget})

    def start(self, machine: Machine, name: str, text: str) -> Execution:
        """Starts an execution, or returns the one that already runs with this name and this input."""
        execution = Execution(self, machine, name, text)
        if machine.type == "EXPRESS":  # of which nothing is kept, names included
            execution.start()
            return execution
        with self._lock:
            existing = self._executions.setdefault(execution.arn, execution)
        if existing is execution:
            execution.start()
        elif existing.status != "RUNNING" or existing.content()["input"] != text:
            raise ServiceError("ExecutionAlreadyExists", f"Execution Already Exists: '{existing.arn}'")
        return existing

    def run(self, machine: Machine, name: str, text: str) -> Execution:
        """Runs an execution of an EXPRESS machine to its end."""
        execution = Execution(self, machine, name, text)
        execution.start()
        execution.wait()
        return execution

    def add(self, child: Execution) -> None:
        with self._lock:
            self._executions[child.arn] = child

    def add_map_run(self, map_run: MapRun) -> None:
        with self._lock:
            self._map_runs[map_run.arn] = map_run

    def status_changed(self, execution: Execution) -> None:
        """Called by an execution when it has started and when it has ended."""
        if execution.machine.type == "STANDARD":
            self._events.send(execution)

    def execution(self, arn: str) -> Execution:
        found = self._executions.get(arn)
        if found is None and ":express:" in arn:
            raise ServiceError("StateMachineTypeNotSupported", "Nothing is kept of the executions of EXPRESS machines")
        if found is None:
            raise ServiceError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")
        return found

    def executions_of(self, machine: Machine) -> list[Execution]:
        """Oldest first."""
        with self._lock:
            return [each for each in self._executions.values() if each.machine.arn == machine.arn]

    def map_run(self, arn: str) -> MapRun:
        found = self._map_runs.get(arn)
        if found is None:
            raise ServiceError("ResourceNotFound", f"Resource not found: '{arn}'")
        return found

    def waiting_task(self, token: str):
        """moto's end point of the task that waits for this token."""
        with self._lock:
            environments = [each.environment for each in self._executions.values() if each.environment is not None]
        for environment in environments:
            if waiting := environment.callback_pool_manager.get(token):
                return waiting
        raise ServiceError("InvalidToken", f"Invalid Token: '{token}'")

    def find_machine(self, name: str):
        """moto's record of the state machine with that name, None where there is none."""
        machines = records.step_functions(request_region(self.server.region)).state_machines
        return next((record for record in machines if record.name == name), None)

    def machine(self, arn: str) -> Machine:
        """A state machine as it is now, given its own ARN or that of a version or an alias."""
        parts = arn.split(":")
        record = self.find_machine(parts[6]) if len(parts) > 6 else None
        if record is None or len(parts) > 8:
            raise ServiceError("StateMachineDoesNotExist", f"State Machine Does Not Exist: '{arn}'")
        version_arn = alias_arn = None
        source = record
        if len(parts) == 8:
            alias = record.aliases.get(parts[7])
            alias_arn, version_arn = (arn, _routed(alias)) if alias else (None, arn)
            source = next((each for each in record.versions.values() if each.arn == version_arn), None)
            if source is None:
                raise ServiceError("StateMachineDoesNotExist", f"State Machine Does Not Exist: '{arn}'")
        return Machine(
            arn=record.arn,
            name=record.name,
            type=record.type or "STANDARD",
            role_arn=source.roleArn,
            definition=source.definition,
            update_date=(record.update_date or record.creation_date).timestamp(),
            program=parse(source.definition),
            timeout_seconds=json.loads(source.definition).get("TimeoutSeconds"),
            version_arn=version_arn,
            alias_arn=alias_arn,
        )

    def _forget(self, call: dict) -> None:
        """A deleted state machine's executions go with it; those that run are stopped."""
        arn = call["stateMachineArn"]
        with self._lock:
            gone = [each for each in self._executions.values() if each.machine.arn.split("/")[0] == arn]
            for execution in gone:
                del self._executions[execution.arn]
        for execution in gone:
            execution.stop()


def _routed(alias) -> str:
    routes = alias.routing_configuration
    return random.choices([route["stateMachineVersionArn"] for route in routes], [route["weight"] for route in routes])[
        0
    ]
