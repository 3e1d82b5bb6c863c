"""moto's interpreter of the Amazon States Language, and everything that is changed in it: all of it here.

moto.stepfunctions.parser is LocalStack's interpreter, whose tests were recorded against AWS. A program is a tree of
components, each of which has eval(env); env, the environment, holds the state's input, the context object, a stack of
intermediate values, the variables and the history. What follows replaces methods of some components. Each replacement
says in one comment which behaviour of the service it restores. moto is pinned exactly in requirements.txt.
"""

import base64
import functools
import json
import logging
import sys
import threading
import uuid

from botocore.exceptions import ClientError
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl
from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName
from moto.stepfunctions.parser.asl.component.common.path import result_path
from moto.stepfunctions.parser.asl.component.common.string.string_expression import StringJSONata, StringVariableSample
from moto.stepfunctions.parser.asl.component.common.timeouts.timeout import EvalTimeoutError
from moto.stepfunctions.parser.asl.component.eval_component import EvalComponent
from moto.stepfunctions.parser.asl.component.program.program import Program
from moto.stepfunctions.parser.asl.component.state.choice.state_choice import StateChoice
from moto.stepfunctions.parser.asl.component.state.exec.execute_state import ExecutionState
from moto.stepfunctions.parser.asl.component.state.exec.state_map.iteration.iteration_worker import IterationWorker
from moto.stepfunctions.parser.asl.component.state.exec.state_map.max_concurrency import MaxConcurrencyDecl
from moto.stepfunctions.parser.asl.component.state.exec.state_map.state_map import StateMap
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import state_task_service_lambda
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import StateTaskService
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.utils import boto_client, json_path
from moto.stepfunctions.parser.models import StepFunctionsParserBackend

from local_aws.json_protocol import ServiceError
from local_aws.workflows import templates
from local_aws.workflows.failures import state_failed
from local_aws.workflows.grammar import parse_machine
from local_aws.workflows.map_run import MapState, run_map

# What a distributed Map reads for itself (see map_run); moto's grammar does not know all of it.
DISTRIBUTED_MAP_FIELDS = (
    "Items",
    "ItemsPath",
    "ItemReader",
    "ItemSelector",
    "ItemBatcher",
    "ResultWriter",
    "MaxConcurrency",
    "MaxConcurrencyPath",
    "ToleratedFailurePercentage",
    "ToleratedFailurePercentagePath",
    "ToleratedFailureCount",
    "ToleratedFailureCountPath",
    "Label",
)
INVOKE_OPTIONS = {
    "Qualifier": "qualifier",
    "ClientContext": "client_context",
    "InvocationType": "invocation_type",
}
INLINE_CONCURRENCY = 40
UNCAUGHT_BY_ALL = ("States.DataLimitExceeded", "States.Runtime")


def install(server) -> None:
    """Changes moto's classes; the clients and functions that tasks call are the server's."""
    logging.getLogger("moto.stepfunctions").setLevel(logging.CRITICAL)  # failures are in the executions' histories
    # Definitions are checked before they come to moto, whose grammar does not know all that the service does.
    StepFunctionsParserBackend._validate_definition = staticmethod(parse)
    EvalComponent.eval = _eval
    # A retrier's count of attempts is kept under this key; a program is shared, so the key is there from the start.
    EvalComponent.heap_key = property(id)
    Program.eval = _eval_program
    ExecutionState._evaluate_with_timeout = _evaluate_with_timeout
    StringJSONata._eval_body = _eval_jsonata
    StringVariableSample._eval_body = _eval_jsonata  # $name.field in a JSONPath state is looked up in the same way
    # The error of a branch or an iteration keeps its name, also one that the language reserves (States.Timeout).
    CustomErrorName.__init__ = ErrorName.__init__
    ErrorEqualsDecl._eval_body = _eval_error_equals
    StateChoice._eval_state = _choice_evaluator(StateChoice._eval_state)
    StateMap._eval_execution = _map_evaluator(StateMap._eval_execution)
    MaxConcurrencyDecl._eval_body = _eval_inline_concurrency
    IterationWorker._eval_pool = _eval_iterations
    # lambda:invoke has this argument too; moto would drop it and wait for an Event's result.
    state_task_service_lambda._SUPPORTED_API_PARAM_BINDINGS["invoke"].add("InvocationType")
    lambda_eval_utils.execute_lambda_function_integration = functools.partial(_invoke_function, server)
    StateTaskService._normalise_parameters = _with_server(server, _normalise_parameters)
    StateTaskService._normalise_response = _with_server(server, _normalise_response)
    # A path is parsed once: that takes longer than all else that a state does.
    for module in (json_path, result_path):
        module.parse = functools.lru_cache(maxsize=4096)(module.parse)
    _replace_everywhere("boto_client_for", boto_client.boto_client_for, functools.partial(_client_for, server))


def _with_server(server, function):
    """A method that is given the server ahead of its own arguments."""

    def method(self, *arguments, **named):
        return function(server, self, *arguments, **named)

    return method


@functools.lru_cache(maxsize=256)
def parse(definition: str) -> Program:
    """The program of a definition that has been checked. It is not changed by running it, so executions share it."""
    tree = json.loads(definition)
    program = parse_machine(_for_moto(tree))
    _add_map_states(tree, program.states.states, tree.get("QueryLanguage", "JSONPath"))
    return program


def _is_distributed(state: dict) -> bool:
    return state.get("Type") == "Map" and _processor(state).get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED"


def _processor(state: dict) -> dict:
    return state.get("ItemProcessor") or state.get("Iterator") or {}


def _for_moto(machine: dict) -> dict:
    """The definition as moto's grammar takes it: a distributed Map without the fields that MapState reads."""
    states = {}
    for name, state in machine["States"].items():
        state = dict(state)
        if "Branches" in state:
            state["Branches"] = [_for_moto(branch) for branch in state["Branches"]]
        for field in ("ItemProcessor", "Iterator"):
            if field in state:
                state[field] = _for_moto(state[field])
        if _is_distributed(state):
            state = {field: value for field, value in state.items() if field not in DISTRIBUTED_MAP_FIELDS}
            config = {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
            state["ItemProcessor"] = {**state["ItemProcessor"], "ProcessorConfig": config}
        states[name] = state
    return {**machine, "States": states}


def _add_map_states(machine: dict, components: dict, language: str) -> None:
    for name, state in machine["States"].items():
        component, state_language = components[name], state.get("QueryLanguage", language)
        for branch, program in zip(state.get("Branches", []), _branches(component), strict=True):
            _add_map_states(branch, program.states.states, state_language)
        if state["Type"] == "Map":
            iteration = component.iteration_component
            _add_map_states(_processor(state), iteration._states.states, state_language)
            if _is_distributed(state):
                component.map_state = MapState(state, state_language, iteration._get_iteration_program())


def _branches(component) -> list[Program]:
    return component.branches.programs if hasattr(component, "branches") else []


# A failure is logged nowhere but in the history, and a shared program is not described at every failure.
def _eval(self, env: Environment) -> None:
    if env.is_running():
        field = self._field_name()
        if field is not None:
            env.next_field_name = field
        self._eval_body(env)


# A branch has no time-out of its own, and a machine's is kept by its Execution, so no thread is spent on either.
def _eval_program(self, env: Environment) -> None:
    if env.is_running():
        env.next_state_name = self.start_at.start_at_name
    EvalComponent.eval(self, env)


# Only a state with a TimeoutSeconds needs a thread that can be abandoned.
def _evaluate_with_timeout(self, env: Environment) -> None:
    self.timeout.eval(env)
    seconds = env.stack.pop()
    frame = env.open_frame()
    frame.states.reset(input_value=env.states._states_data["input"])
    frame.stack = list(env.stack)
    try:
        if self.timeout.is_default_value():
            self._eval_execution(frame)
        else:
            _call_with_timeout(functools.partial(self._eval_execution, frame), seconds)
    finally:
        frame.set_ended()
        env.close_frame(frame)
    output = frame.stack.pop()
    env.stack.append(output)
    if not self._is_language_query_jsonpath():
        env.states.set_result(output)
    for component in (self.assign_decl, self.result_selector, self.result_path):
        if component:
            component.eval(env)


def _call_with_timeout(function, seconds: float) -> None:
    failures = []

    def call():
        try:
            function()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise EvalTimeoutError()
    if failures:
        raise failures[0]


# JSONata is evaluated, with the data bound to variables; undefined is an error, as on the service.
def _eval_jsonata(self, env: Environment) -> None:
    env.stack.append(templates.evaluate_expression(env, self.expression))


# States.ALL does not catch the two errors that no retry could mend; States.TaskFailed does not catch time-outs.
def _eval_error_equals(self, env: Environment) -> None:
    error, names = env.stack.pop().error_name, [name.error_name for name in self.error_names]
    env.stack.append(
        error in names
        or ("States.ALL" in names and error not in UNCAUGHT_BY_ALL)
        or ("States.TaskFailed" in names and error not in (*UNCAUGHT_BY_ALL, "States.Timeout"))
    )


# No rule of a Choice and no Default is an error of its own.
def _choice_evaluator(eval_choice):
    def eval_and_name_the_error(self, env: Environment) -> None:
        try:
            eval_choice(self, env)
        except RuntimeError as error:
            raise state_failed(
                env,
                "States.NoChoiceMatched",
                f"No rule of the Choice state '{self.name}' matched, and it has no Default",
            ) from error

    return eval_and_name_the_error


# An inline Map runs at most 40 iterations at a time.
def _eval_inline_concurrency(self, env: Environment) -> None:
    env.stack.append(min(self._eval_max_concurrency(env) or INLINE_CONCURRENCY, INLINE_CONCURRENCY))


# However many iterations there are, they follow one another: a call within a call for each hits Python's limit.
def _eval_iterations(self, job, worker_frame: Environment) -> None:
    if job is None:
        self._env.close_frame(worker_frame)
    while job is not None:
        frame = worker_frame.open_inner_frame()
        self._eval_job(env=frame, job=job)
        worker_frame.close_frame(frame)
        failed = isinstance(job.job_output, Exception)
        following = None if failed or self.stopped() else self._job_pool.next_job()
        if following is None:
            if not failed:
                worker_frame.event_history_context.source_event_id = frame.event_history_context.last_published_event_id
            self._env.close_frame(worker_frame)
        self._job_pool.close_job(job)
        job = following


# A distributed Map starts a Map Run whose children are executions.
def _map_evaluator(eval_inline_map):
    def eval_map(self, env: Environment) -> None:
        map_state = getattr(self, "map_state", None)
        if map_state is None:
            eval_inline_map(self, env)
        else:
            run_map(map_state, env)

    return eval_map


# A function is invoked without a detour over HTTP; the errors have the names that the service gives them.
def _invoke_function(server, env: Environment, parameters: dict, region: str, state_credentials) -> None:
    options = {INVOKE_OPTIONS[name]: value for name, value in parameters.items() if name in INVOKE_OPTIONS}
    try:
        outcome = server.functions.invoke(
            parameters["FunctionName"], parameters.get("Payload", b"{}"), region=region or server.region, **options
        )
    except ServiceError as error:
        raise _client_error(error.code, error.message, error.status) from error
    except Exception as error:
        raise _client_error("SdkClientException", f"Unable to execute HTTP request: {error}", 0) from error
    payload = json.loads(outcome.payload) if outcome.payload else {}
    if outcome.function_error:
        cause = json.dumps(payload, separators=(",", ":"))
        raise lambda_eval_utils.LambdaFunctionErrorException(outcome.function_error, cause)
    status = 202 if options.get("invocation_type") == "Event" else 200
    result = {
        "ExecutedVersion": outcome.executed_version,
        "Payload": payload,
        "SdkHttpMetadata": {"HttpStatusCode": status},
        "SdkResponseMetadata": {"RequestId": outcome.request_id},
        "StatusCode": status,
    }
    if parameters.get("LogType") == "Tail":
        result["LogResult"] = base64.b64encode(outcome.log_tail).decode()
    env.stack.append(result)


def _client_error(code: str, message: str, status: int) -> ClientError:
    metadata = {"HTTPStatusCode": status, "RequestId": str(uuid.uuid4())}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, "Invoke")


# A definition writes the members of all services in PascalCase; each service has its own way.
def _normalise_parameters(server, self, parameters: dict, boto_service_name=None, service_action_name=None) -> None:
    operation = _operation(server, self, boto_service_name, service_action_name)
    if operation is not None and operation.input_shape is not None:
        self._to_boto_request(parameters, operation.input_shape)


def _normalise_response(server, self, response, boto_service_name=None, service_action_name=None) -> None:
    operation = _operation(server, self, boto_service_name, service_action_name)
    if operation is not None and operation.output_shape is not None:
        self._from_boto_response(response, operation.output_shape)


def _operation(server, task: StateTaskService, service_name: str | None, action: str | None):
    """boto's description of the operation that a task calls, None for Lambda, whose own names they are."""
    service = task._get_boto_service_name(service_name)
    if service == "lambda":
        return None
    client = server.client(service)
    name = client.meta.method_to_api_mapping.get(task._get_boto_service_action(action))
    return name and client.meta.service_model.operation_model(name)


# Tasks of other services use this server's address and its key.
def _client_for(server, region: str, service: str, state_credentials=None):
    if region == server.region:
        return server.client(service)
    raise ServiceError("ValidationException", f"Tasks run in {server.region} only, not in {region}")


def _replace_everywhere(name: str, old, new) -> None:
    """moto's modules import the function itself, so each of them has to be told."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("moto.stepfunctions.parser") and getattr(module, name, None) is old:
            setattr(module, name, new)
