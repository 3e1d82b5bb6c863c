"""What an invocation came to: the payload, the error if there is one, and the lines of its log."""

import json
import re
import signal
import sys
import sysconfig
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from local_aws.functions.function import FunctionVersion
from local_aws.functions.worker import Answer

SIGNALS: dict[int, str] = {
    signal.SIGINT: "interrupt",
    signal.SIGABRT: "aborted (core dumped)",
    signal.SIGKILL: "killed",
    signal.SIGSEGV: "segmentation fault (core dumped)",
    signal.SIGTERM: "terminated",
}
LOG_TAIL = 4096  # bytes


@dataclass(frozen=True)
class Outcome:
    """An invocation's answer.

    payload           JSON bytes, as the runtime wrote them; empty for the invocation types Event and DryRun
    function_error    "Unhandled" where the handler or the runtime failed, else None
    executed_version  "$LATEST" or a number
    request_id        as in the handler's context and in the log
    log               everything that the invocation put into its log
    """

    payload: bytes
    function_error: str | None
    executed_version: str
    request_id: str
    log: str = ""

    @property
    def log_tail(self) -> bytes:
        """The last 4 KB of the log."""
        return self.log.encode()[-LOG_TAIL:]


@dataclass(frozen=True)
class Duration:
    """Milliseconds: of the handler, and of the initialisation where there was one."""

    handler: float
    initialisation: float | None


def payload_of(answer: Answer, function: FunctionVersion, request_id: str) -> tuple[bytes, str | None]:
    """The payload and the function error that AWS answers for what a worker did."""
    if answer.kind == "result":
        return answer.body, None
    if answer.kind == "timeout":
        return _error("Sandbox.Timedout", f"RequestId: {request_id} Error: {_timed_out(function)}"), "Unhandled"
    if answer.kind == "exit":
        return _error("Runtime.ExitError", f"RequestId: {request_id} Error: {_exited(answer.status)}"), "Unhandled"
    return answer.body, "Unhandled"


def log_text(
    answer: Answer, function: FunctionVersion, request_id: str, duration: Duration, output: tuple[str, str], memory: int
) -> str:
    """The log of one invocation: what the initialisation and the handler printed between AWS's own lines.

    output is (printed before the handler ran, printed while it ran); memory the most that was used, in MB.
    """
    before, during = output
    lines = [
        before,
        f"START RequestId: {request_id} Version: {function.version}\n",
        during,
        "" if during.endswith("\n") or not during else "\n",
        _platform_lines(answer, function, request_id),
        f"END RequestId: {request_id}\n",
        _report(answer, function, request_id, duration, memory),
    ]
    return "".join(lines)


def _error(error_type: str, message: str) -> bytes:
    return json.dumps({"errorType": error_type, "errorMessage": message}).encode()


def _timed_out(function: FunctionVersion) -> str:
    return f"Task timed out after {function.timeout:.2f} seconds"


def _exited(status: int) -> str:
    if status == 0:
        return "Runtime exited without providing a reason"
    if status < 0:
        return f"Runtime exited with error: signal: {SIGNALS.get(-status) or signal.strsignal(-status).lower()}"
    return f"Runtime exited with error: exit status {status}"


def _platform_lines(answer: Answer, function: FunctionVersion, request_id: str) -> str:
    if answer.kind == "timeout":
        now = datetime.fromtimestamp(time.time(), timezone.utc)
        return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {request_id} {_timed_out(function)}\n\n"
    if answer.kind == "exit":
        return f"RequestId: {request_id} Error: {_exited(answer.status)}\nRuntime.ExitError\n"
    return ""


def _report(answer: Answer, function: FunctionVersion, request_id: str, duration: Duration, memory: int) -> str:
    fields = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {duration.handler:.2f} ms",
        f"Billed Duration: {int(duration.handler) + 1} ms",
        f"Memory Size: {function.memory_size} MB",
        f"Max Memory Used: {memory} MB",
    ]
    if duration.initialisation is not None:
        fields.append(f"Init Duration: {duration.initialisation:.2f} ms")
    if answer.kind == "timeout":
        fields.append("Status: timeout")
    elif answer.kind in ("exit", "init error"):
        error_type = "Runtime.ExitError" if answer.kind == "exit" else json.loads(answer.body)["errorType"]
        fields += ["Status: error", f"Error Type: {error_type}"]
    return "\t".join(fields) + "\n"


class PathsOfAws:
    """Puts the paths that the runtime has on AWS in the place of this machine's."""

    def __init__(self, task_roots: Path, runtime_folder: Path):
        """task_roots holds a folder for each package, runtime_folder what AWS has in /var/runtime."""
        library = f"/var/lang/lib/python{sys.version_info.major}.{sys.version_info.minor}"
        self._on_aws = [
            (re.compile(rf"{re.escape(str(task_roots))}/\w+"), "/var/task"),
            (re.compile(re.escape(str(runtime_folder))), "/var/runtime"),
            (re.compile(re.escape(sysconfig.get_path("stdlib"))), library),
        ]

    def in_text(self, text: str) -> str:
        for here, on_aws in self._on_aws:
            text = here.sub(on_aws, text)
        return text
