"""Worker processes from the server's side: how one is started, invoked, watched and ended."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from local_aws.functions.function import FunctionVersion
from local_aws.functions.runtime import pack_frame, unpack_frame

RUNTIME = Path(__file__).parent / "runtime.py"
RUNTIME_PACKAGES = (
    "awslambdaric",
    "boto3",
    "botocore",
    "dateutil",
    "jmespath",
    "s3transfer",
    "simplejson",
    "six",
    "snapshot_restore_py",
    "urllib3",
)
EXIT_SECONDS = 5  # within which a process that closed its socket, or was killed, is gone


@dataclass(frozen=True)
class Answer:
    """What a worker did: "ready", "result", "error", "init error", "exit" or "timeout".

    body is what it sent with that; status the exit status of one that ended, negative for a signal as in subprocess.
    """

    kind: str
    body: bytes = b""
    status: int = 0


class Worker:
    """One process that has become one function. Not thread-safe: it has one invocation at a time."""

    def __init__(
        self,
        starter: "Starter",
        function: FunctionVersion,
        environment: dict[str, str],
        log_stream: str,
        temporary_folder: Path,
    ):
        self.function = function
        self.log_stream = log_stream
        self.started = time.perf_counter()
        self._temporary_folder = Path(tempfile.mkdtemp(dir=temporary_folder))
        self._received = bytearray()
        self._output: list[bytes] = []
        self._output_has_ended = False
        self._is_closed = False
        self.is_initialised = False
        self.peak_memory_mb = 0
        self._channel, theirs = socket.socketpair()
        self._output_pipe, their_output = os.pipe()
        os.set_blocking(self._output_pipe, False)
        try:
            self._process = starter.start(theirs, their_output)
        except OSError:
            self._release()
            raise
        finally:
            theirs.close()
            os.close(their_output)
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(self._output_pipe, select.POLLIN)
        temporary = {"TMPDIR": str(self._temporary_folder), "HOME": str(self._temporary_folder)}
        self._send({"handler": function.handler, "environment": {**temporary, **environment}}, timeout=EXIT_SECONDS)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_usable(self) -> bool:
        """False for an idle worker that was closed, has ended, or sent something that nobody asked for."""
        if self._is_closed:
            return False
        probe = select.poll()
        probe.register(self._channel, select.POLLIN)
        return not probe.poll(0)

    def initialise(self, timeout: float) -> Answer:
        """Waits until the function is imported; timeout in seconds. After any answer but "ready" it is of no use."""
        answer = self._answer(time.monotonic() + timeout)
        self.is_initialised = answer.kind == "ready"
        return answer

    def invoke(self, invocation: dict, event: bytes, timeout: float) -> Answer:
        """Runs the handler once; timeout in seconds. After the answers "exit" and "timeout" the process is gone."""
        deadline = time.monotonic() + timeout
        if not self._send(invocation, event, timeout):
            return self._exit()
        return self._answer(deadline)

    def take_output(self) -> bytes:
        """What was printed since the last call."""
        self._drain()
        output = b"".join(self._output)
        self._output.clear()
        return output

    def close(self) -> None:
        """Kills the process and what its handler has started, and removes its temporary files."""
        if self._is_closed:
            return
        self._is_closed = True
        self.kill()
        self._process.close()
        self._release()

    def _release(self) -> None:
        self._channel.close()
        os.close(self._output_pipe)
        shutil.rmtree(self._temporary_folder, ignore_errors=True)

    def _send(self, meta: dict, body: bytes = b"", timeout: float | None = None) -> bool:
        self._channel.settimeout(timeout)
        try:
            self._channel.sendall(pack_frame(meta, body))
        except OSError:
            return False  # it has ended, or does not read; _answer says which
        return True

    def _answer(self, deadline: float) -> Answer:
        while (frame := unpack_frame(self._received)) is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return self._time_out()
            for descriptor, _ in self._poll.poll(remaining * 1000):
                if descriptor == self._output_pipe:
                    self._drain()
                elif not self._receive():
                    return self._exit()
        meta, body = frame
        self.peak_memory_mb = meta["memory_mb"]
        return Answer(meta["kind"], body)

    def _receive(self) -> bool:
        try:
            chunk = self._channel.recv(1 << 20)
        except ConnectionResetError:
            return False
        self._received += chunk
        return bool(chunk)

    def _drain(self) -> None:
        try:
            while chunk := os.read(self._output_pipe, 1 << 16):
                self._output.append(chunk)
        except BlockingIOError:
            return
        if not self._output_has_ended:
            self._output_has_ended = True
            self._poll.unregister(self._output_pipe)  # a closed pipe would be reported as readable for ever

    def _time_out(self) -> Answer:
        self.kill()
        return Answer("timeout")

    def _exit(self) -> Answer:
        try:
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:  # it closed the socket and lives on
            status = -signal.SIGKILL
        self.kill()
        return Answer("exit", status=status)

    def kill(self) -> None:
        """Kills the process and its process group; an invocation under way ends with the answer "exit"."""
        # Where nothing is left to kill this is a ProcessLookupError, on macOS a PermissionError.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_SECONDS)


class StartedProcess(subprocess.Popen):
    """A process of its own, which ends when its standard input closes."""

    def close(self) -> None:
        self.stdin.close()


class Starter:
    """Starts worker processes, each as a new Python interpreter. This works on every system."""

    def __init__(self, folder: Path):
        self._runtime_folder = folder / "runtime"
        self._runtime_folder.mkdir(parents=True)
        for name in RUNTIME_PACKAGES:
            _link_package(name, self._runtime_folder)

    @property
    def runtime_folder(self) -> Path:
        """Holds what AWS has in /var/runtime, and nothing else that is installed here."""
        return self._runtime_folder

    def prepare(self) -> None:
        """Called when a function is made, ahead of its first worker; there is nothing to prepare here."""

    def start(self, channel: socket.socket, output: int) -> "StartedProcess | ForkedProcess":
        return self._run("worker", channel, stdin=subprocess.PIPE, stdout=output, stderr=output)

    def close(self) -> None:
        """Nothing to do: the workers are closed one by one, and each ends when this process does."""

    def _run(self, task: str, channel: socket.socket, **streams) -> StartedProcess:
        return StartedProcess(
            [sys.executable, "-I", "-S", str(RUNTIME), str(self._runtime_folder), task, str(channel.fileno())],
            pass_fds=[channel.fileno()],
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath)},  # none of this process's keys
            **streams,
        )


class ForkingStarter(Starter):
    """Starts worker processes as forks of one that has boto3 loaded.

    benchmarks/bench_functions.py: with an S3 client a sixth of the time and half of the memory of a new interpreter.
    For Linux: on macOS a process that has used the system's frameworks cannot safely be forked.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._lock = threading.Lock()
        self._parent: StartedProcess | None = None
        self._control: socket.socket | None = None
        self._is_closed = False

    def prepare(self) -> None:
        """Starts the process that forks, which takes most of a second to load boto3."""
        with self._lock:
            self._ensure_parent()

    def start(self, channel: socket.socket, output: int) -> "ForkedProcess":
        reader, writer = os.pipe()
        try:
            with self._lock:
                self._ensure_parent()
                socket.send_fds(self._control, [b"fork"], [channel.fileno(), output, writer])
        finally:
            os.close(writer)
        return ForkedProcess(reader)

    def close(self) -> None:
        """Ends the process that forks, and with it every worker."""
        with self._lock:
            self._is_closed = True
            if self._parent is not None:
                self._control.close()
                self._parent.wait()

    def _ensure_parent(self) -> None:
        if self._is_closed:
            raise ChildProcessError("The local AWS is stopping")
        if self._parent is not None and self._parent.poll() is None:
            return
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._parent = self._run("forks", theirs, stdin=subprocess.DEVNULL)
        theirs.close()


class ForkedProcess:
    """A process that another one forked, known by the pipe that tells its id and, at the end, its exit status."""

    def __init__(self, status_pipe: int):
        self._pipe = open(status_pipe, "rb", buffering=0)  # noqa: SIM115, open until close()
        self._lock = threading.Lock()  # the server that stops waits too
        self._status: int | None = None
        line = self._pipe.readline()
        if not line:
            self.close()
            raise ChildProcessError("The process that forks the Lambda workers could not do so; try again")
        self.pid = int(line)

    def wait(self, timeout: float) -> int:
        """The exit status, as subprocess has it. Raises subprocess.TimeoutExpired."""
        with self._lock:
            if self._status is None:
                poll = select.poll()
                poll.register(self._pipe, select.POLLIN)
                if not poll.poll(timeout * 1000):
                    raise subprocess.TimeoutExpired(f"Lambda worker {self.pid}", timeout)
                # The end of the pipe without a status: the process that forks was killed, and its forks with it.
                self._status = int(self._pipe.readline() or -signal.SIGKILL)
            return self._status

    def close(self) -> None:
        with self._lock:
            self._pipe.close()
            if self._status is None:
                self._status = -signal.SIGKILL


def new_starter(folder: Path) -> Starter:
    return ForkingStarter(folder) if sys.platform == "linux" else Starter(folder)


def _link_package(name: str, folder: Path) -> None:
    spec = find_spec(name)
    origin = Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin)
    (folder / origin.name).symlink_to(origin)
