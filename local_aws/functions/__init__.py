"""Lambda's Invoke: functions run for real, by AWS's own runtime (awslambdaric) in processes of this machine.

What Lambda does that this does not:
- Isolation. A handler runs as this user, with this machine's Python, whatever 3.x version the function names. Its task
  root is a folder that LAMBDA_TASK_ROOT and the working directory name; /var/task stands in traces and logs only. Its
  /tmp is the folder that TMPDIR names, which Python's tempfile uses; a literal "/tmp" is this machine's.
- Limits of memory, CPU and storage: MemorySize and EphemeralStorage are told to the handler, and not enforced.
- Freezing: what a handler leaves running goes on between invocations.
- Initialisation that takes longer than 10 seconds is not begun anew: the function's timeout is added to the 10 seconds.
- The waits between the tries of an Event invocation that ends in an error: AWS tries twice more, after 1 and after
  2 minutes; here at once. While throttled, AWS tries for 6 hours, waiting from 1 second up to 5 minutes; here each
  second, for as long. Destinations, dead-letter queues and event invoke configurations have no effect.
- Triggers (S3, SNS, SQS, EventBridge and what else moto knows) run a function once, while the call that set them off
  waits; AWS queues the event for it and tries again.
- Logs appear when an invocation ends, and not while it runs.
- Refused by name: other runtimes than Python, container images, layers, streamed responses.
"""

import base64
import json
import os
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from flask import Flask, Response, request

from local_aws import records
from local_aws.functions.function import FunctionVersion, check_supported, find
from local_aws.functions.invocation import Invocation, new_trace
from local_aws.functions.logs import LogWriter, new_stream_name
from local_aws.functions.outcome import Outcome, PathsOfAws
from local_aws.functions.package import BadPackage, TaskRoots
from local_aws.functions.pool import CAP, Pool, Throttled
from local_aws.functions.worker import Worker, new_starter
from local_aws.json_protocol import ServiceError, request_region

FUNCTIONS = "/2015-03-31/functions"
INVOCATIONS = re.compile(FUNCTIONS + r"/([^/]+)/invocations/?")
PAYLOAD_LIMITS = {"RequestResponse": 6 << 20, "Event": 1 << 20, "DryRun": 6 << 20}  # bytes
STATUS = {"RequestResponse": 200, "Event": 202, "DryRun": 204}
TRIES_OF_AN_EVENT = 3
EVENT_AGE_SECONDS = 6 * 3600


class Functions:
    """The Lambda functions of one server."""

    def __init__(self, server):
        self._server = server
        folder = server.run_folder / "functions"
        self._starter = new_starter(folder)
        self._task_roots = TaskRoots(folder / "task-roots")
        self._temporary_folder = folder / "tmp"
        self._temporary_folder.mkdir()
        self._pool = Pool(self._start_worker)
        self._logs = LogWriter()
        self._events = ThreadPoolExecutor(CAP, thread_name_prefix="Lambda event")
        self._traces: set[str] = set()
        self._closed = threading.Event()
        self._paths = PathsOfAws(folder / "task-roots", self._starter.runtime_folder)
        self._role_credentials = cache(records.assume_role)
        records.run_triggered_functions_with(self._run_triggered)
        server.at_stop(self._close)

    def attach(self, service: str, app: Flask) -> None:
        if service == "awslambda":
            app.before_request(self._answer_invoke)
            app.after_request(self._prepare_for_function)

    def invoke(
        self,
        name_or_arn: str,
        payload: bytes = b"",
        qualifier: str | None = None,
        region: str | None = None,
        invocation_type: str = "RequestResponse",
        client_context: str | None = None,
        trace_id: str | None = None,
    ) -> Outcome:
        """Invokes a function as the API's Invoke does, without HTTP in between.

        payload is JSON; client_context is JSON in base64; trace_id is the caller's X-Amzn-Trace-Id. With the type
        "RequestResponse" this waits for the outcome. Raises ServiceError: ResourceNotFoundException,
        InvalidRequestContentException, RequestEntityTooLargeException, InvalidRuntimeException,
        TooManyRequestsException (Throttled) and others.
        """
        record, arn = find(name_or_arn, qualifier, region or self._server.region)
        payload = payload or b"{}"
        _check_payload(payload, invocation_type)
        function = FunctionVersion.of(record)
        if invocation_type == "DryRun":
            return Outcome(b"", None, function.version, str(uuid.uuid4()))
        check_supported(record)
        invocation = Invocation(function, arn, payload, _decoded(client_context), trace_id)
        if invocation_type == "Event":
            self._events.submit(self._run_event, invocation)
            return Outcome(b"", None, function.version, invocation.request_id)
        return self._run(invocation)

    def _answer_invoke(self) -> Response | None:
        found = INVOCATIONS.fullmatch(request.path)
        if found is None or request.method != "POST":
            return None
        invocation_type = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        try:
            outcome = self.invoke(
                found[1],
                request.get_data(),
                qualifier=request.args.get("Qualifier"),
                region=request_region(self._server.region),
                invocation_type=invocation_type,
                client_context=request.headers.get("X-Amz-Client-Context"),
                trace_id=request.headers.get("X-Amzn-Trace-Id"),
            )
        except Throttled as error:
            return error.response(Type="User", Reason=error.reason)
        except ServiceError as error:
            return error.response(Type="User")
        headers = {"X-Amzn-RequestId": outcome.request_id, "X-Amz-Executed-Version": outcome.executed_version}
        if outcome.function_error:
            headers["X-Amz-Function-Error"] = outcome.function_error
        if request.headers.get("X-Amz-Log-Type") == "Tail" and invocation_type == "RequestResponse":
            headers["X-Amz-Log-Result"] = base64.b64encode(outcome.log_tail).decode()
        return Response(outcome.payload, STATUS[invocation_type], headers, content_type="application/json")

    def _prepare_for_function(self, response: Response) -> Response:
        if response.status_code == 201 and request.path.rstrip("/") == FUNCTIONS:
            self._starter.prepare()
        return response

    def _run(self, invocation: Invocation) -> Outcome:
        trace = new_trace(invocation.caller_trace)
        is_nested = invocation.caller_trace in self._traces
        self._traces.add(trace)
        try:
            with self._pool.borrow(invocation.function, is_nested) as worker:
                outcome = invocation.run_on(worker, trace, self._paths)
            self._logs.write(invocation.function, worker.log_stream, outcome.log)
            return outcome
        finally:
            self._traces.discard(trace)

    def _run_triggered(self, arn: str, region: str, event: bytes) -> tuple[bytes, str | None]:
        try:
            outcome = self.invoke(arn, event, region=region)
        except ServiceError as error:
            return error.message.encode(), error.code
        return outcome.payload, outcome.function_error

    def _run_event(self, invocation: Invocation) -> None:
        deadline = time.monotonic() + EVENT_AGE_SECONDS
        failures = 0
        while failures < TRIES_OF_AN_EVENT and time.monotonic() < deadline and not self._closed.is_set():
            try:
                if self._run(invocation).function_error is None:
                    return
                failures += 1
            except Throttled:
                self._closed.wait(1)
            except ServiceError:
                failures += 1

    def _start_worker(self, function: FunctionVersion) -> Worker:
        log_stream = new_stream_name(function)
        try:
            root = self._task_roots.unpack(function.code)
            environment = self._environment(function, str(root), log_stream)
            return Worker(self._starter, function, environment, log_stream, self._temporary_folder)
        except BadPackage as error:
            raise ServiceError("InvalidZipFileException", str(error), 502) from error
        except OSError as error:  # a full disk, too many processes
            raise ServiceError("ServiceException", f"No worker could be started: {error}", 500) from error

    def _environment(self, function: FunctionVersion, task_root: str, log_stream: str) -> dict[str, str]:
        """What a worker has in its environment: AWS's variables win over the function's own, but for a few."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PYTHONPATH": str(self._starter.runtime_folder),
            **dict(function.environment),
            **self._role_credentials(function.role, function.name, function.region),
            "AWS_ENDPOINT_URL": self._server.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": function.region,
            "AWS_DEFAULT_REGION": function.region,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": function.version,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
            "LAMBDA_TASK_ROOT": task_root,
            "LAMBDA_RUNTIME_DIR": str(self._starter.runtime_folder),
            "_HANDLER": function.handler,
        }

    def _close(self) -> None:
        self._closed.set()
        self._events.shutdown(wait=False, cancel_futures=True)
        self._pool.close()
        self._starter.close()


def _check_payload(payload: bytes, invocation_type: str) -> None:
    if invocation_type not in PAYLOAD_LIMITS:
        raise ServiceError(
            "InvalidParameterValueException",
            f"InvocationType {invocation_type!r} is none of {', '.join(PAYLOAD_LIMITS)}",
        )
    limit = PAYLOAD_LIMITS[invocation_type]
    if len(payload) > limit:
        raise ServiceError(
            "RequestEntityTooLargeException",
            f"{len(payload)} byte payload is too large for the {invocation_type} invocation type (limit {limit} bytes)",
            413,
        )
    try:
        json.loads(payload)
    except ValueError as error:
        raise ServiceError(
            "InvalidRequestContentException",
            f"Could not parse request body into json: Could not parse payload into json: {error}",
        ) from error


def _decoded(client_context: str | None) -> str | None:
    if client_context is None:
        return None
    try:
        text = base64.b64decode(client_context, validate=True).decode()
        json.loads(text)
    except ValueError as error:
        raise ServiceError(
            "InvalidRequestContentException", "Client context must be a valid Base64-encoded JSON object."
        ) from error
    return text
