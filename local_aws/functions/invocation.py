"""One invocation: what the handler is given, and how a worker's answer becomes what the caller gets."""

import time
import uuid
from dataclasses import dataclass, field

from local_aws.functions.function import FunctionVersion
from local_aws.functions.outcome import Duration, Outcome, PathsOfAws, log_text, payload_of
from local_aws.functions.worker import Answer, Worker

INITIALISATION_SECONDS = 10


@dataclass(frozen=True)
class Invocation:
    """A request to run a function once; an Event that is tried again keeps its request id, as on AWS."""

    function: FunctionVersion
    invoked_arn: str
    event: bytes
    client_context: str | None
    caller_trace: str | None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def run_on(self, worker: Worker, trace: str, paths: PathsOfAws) -> Outcome:
        answer, initialised = self._initialise(worker)
        before = paths.in_text(_text(worker.take_output()))
        started = time.perf_counter()
        if answer.kind == "ready":
            answer = worker.invoke(self._message(trace), self.event, self.function.timeout)
        duration = Duration((time.perf_counter() - started) * 1000, initialised)
        during = paths.in_text(_text(worker.take_output()))
        if answer.kind in ("init error", "timeout", "exit"):
            worker.close()
        payload, error = payload_of(answer, self.function, self.request_id)
        log = log_text(answer, self.function, self.request_id, duration, (before, during), worker.peak_memory_mb)
        if error:
            payload = paths.in_text(payload.decode()).encode()
        return Outcome(payload, error, self.function.version, self.request_id, log)

    def _initialise(self, worker: Worker) -> tuple[Answer, float | None]:
        """The answer "ready", or what went wrong; and the milliseconds that it took, None for a warm worker."""
        if worker.is_initialised:
            return Answer("ready"), None
        answer = worker.initialise(INITIALISATION_SECONDS + self.function.timeout)
        return answer, (time.perf_counter() - worker.started) * 1000

    def _message(self, trace: str) -> dict:
        """The fields of awslambdaric's InvocationRequest, but for the event."""
        return {
            "invoke_id": self.request_id,
            "x_amzn_trace_id": trace,
            "invoked_function_arn": self.invoked_arn,
            "deadline_time_in_ms": int((time.time() + self.function.timeout) * 1000),
            "client_context": self.client_context,
            "cognito_identity": None,
            "tenant_id": None,
            "content_type": "application/json",
            "invocation_id": None,
        }


def new_trace(caller_trace: str | None) -> str:
    """An X-Ray trace header that no other invocation has; it keeps the root of the caller's."""
    root = (caller_trace or "").partition(";")[0]
    if not root.startswith("Root="):
        root = f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}"
    return f"{root};Parent={uuid.uuid4().hex[:16]};Sampled=0"


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
