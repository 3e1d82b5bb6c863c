"""The program of a worker process: AWS's own Lambda runtime (awslambdaric) over a socket to the server.

Everything a handler can notice is AWS's code: imports, context, marshalling, error payloads, logging. Replaced is only
the transport: where awslambdaric asks the Runtime API over HTTP, this exchanges frames with the server.

Run with `python -I -S`, so that nothing but the standard library and what AWS's runtime ships can be imported:

    runtime.py RUNTIME_FOLDER worker SOCKET     becomes the function that the first frame describes
    runtime.py RUNTIME_FOLDER forks SOCKET      loads boto3 once and forks such workers (Linux)
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable
from typing import NoReturn

HEADER = struct.Struct(">II")
RESPONSE_LIMIT = 6291556  # bytes
RESPONSE_TOO_LARGE = {
    "errorMessage": f"Response payload size exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes).",
    "errorType": "Function.ResponseSizeTooLarge",
}
PR_SET_PDEATHSIG = 1
MODELS_PARSED_ONCE = ("s3", "sagemaker-runtime")


def pack_frame(meta: dict, body: bytes = b"") -> bytes:
    """A frame: the two lengths, a small JSON object, and bytes that are passed on as they are."""
    head = json.dumps(meta).encode()
    return HEADER.pack(len(head), len(body)) + head + body


def unpack_frame(received: bytearray) -> tuple[dict, bytes] | None:
    """Takes the first frame off what was received; None while it is not all there."""
    if len(received) < HEADER.size:
        return None
    head_size, body_size = HEADER.unpack_from(received)
    body_start = HEADER.size + head_size
    end = body_start + body_size
    if len(received) < end:
        return None
    meta, body = json.loads(received[HEADER.size : body_start]), bytes(received[body_start:end])
    del received[:end]
    return meta, body


class Connection:
    """The worker's end of the socket, in the place of awslambdaric's client of the Runtime API."""

    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._received = bytearray()
        self._is_ready = False
        self.marshaller: object = None  # awslambdaric's, which is there only once the function's environment is

    def receive(self) -> tuple[dict, bytes]:
        """The next frame; ends the process where the server has gone."""
        while (frame := unpack_frame(self._received)) is None:
            chunk = self._channel.recv(1 << 20)
            if not chunk:
                os._exit(0)
            self._received += chunk
        return frame

    def _send(self, kind: str, body: bytes = b"") -> None:
        self._channel.sendall(pack_frame({"kind": kind, "memory_mb": peak_memory_mb()}, body))

    def wait_next_invocation(self):
        from awslambdaric.lambda_runtime_client import InvocationRequest

        if not self._is_ready:
            self._send("ready")
            self._is_ready = True
        meta, event = self.receive()
        return InvocationRequest(**meta, event_body=event)

    def post_invocation_result(self, invoke_id, result_data, content_type="application/json", invocation_id=None):
        body = result_data if isinstance(result_data, bytes) else result_data.encode()
        if len(body) > RESPONSE_LIMIT:
            self._send("error", json.dumps(RESPONSE_TOO_LARGE).encode())
        else:
            self._send("result", body)

    def post_invocation_error(self, invoke_id, error_response_data, xray_fault, invocation_id=None):
        self._send("error", error_response_data.encode())

    def post_init_error(self, error_response_data, error_type_override=None):
        from awslambdaric.lambda_runtime_marshaller import to_json

        self._send("init error", to_json(error_response_data).encode())


def peak_memory_mb() -> int:
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


def run_function(channel: socket.socket) -> None:
    """Becomes the function that the first frame describes, and serves it until the server closes the socket."""
    connection = Connection(channel)
    function, _ = connection.receive()
    os.environ.clear()
    os.environ.update(function["environment"])
    time.tzset()
    root = os.environ["LAMBDA_TASK_ROOT"]
    os.chdir(root)
    sys.path.insert(0, root)
    sys.argv = ["/var/runtime/bootstrap.py"]
    os.register_at_fork(after_in_child=channel.close)  # what a handler forks must not keep the socket open
    forget_packages_that_the_function_brings(root)
    sys.modules["runtime_client"] = None  # awslambdaric's native HTTP client, which not every platform has

    from awslambdaric import bootstrap  # only now: it reads the environment when it is imported
    from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller

    connection.marshaller = LambdaMarshaller()
    bootstrap.run(function["handler"], connection)


def forget_packages_that_the_function_brings(root: str) -> None:
    """A boto3 of the function's own goes before the runtime's, also where that one is loaded already."""
    runtime_folder = sys.path[-1]
    shipped = top_level_modules(runtime_folder)
    if shipped & top_level_modules(root):
        for name in list(sys.modules):
            if name.partition(".")[0] in shipped:
                del sys.modules[name]


def top_level_modules(folder: str) -> set[str]:
    return {name.removesuffix(".py") for name in os.listdir(folder)} - {"__pycache__"}


def load_what_handlers_use() -> None:
    """Imports boto3 and parses the largest models, so that a fork of this process has them at once."""
    import boto3
    from botocore.loaders import JSONFileLoader

    read, parsed = JSONFileLoader.load_file, {}

    def read_once(loader, path):
        if path not in parsed:
            parsed[path] = read(loader, path)
        return parsed[path]

    JSONFileLoader.load_file = read_once
    session = boto3.Session(aws_access_key_id="none", aws_secret_access_key="none", region_name="us-east-1")
    for service in MODELS_PARSED_ONCE:
        session.client(service)


def fork_workers(control: socket.socket) -> socket.socket:
    """Forks a worker for every message that carries its socket, its output and its status pipe.

    Writes a worker's process id to its status pipe, and its exit status when it ends. When the server goes, so do all
    workers, whatever they are doing. Returns, in a worker only, its socket.
    """
    import gc
    import select

    gc.freeze()  # collections in the workers leave the shared pages alone
    wake_reader, wake_writer = wake_up_when_a_child_ends()
    status_pipes: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), wake_reader], [], [])
        if wake_reader in ready:
            os.read(wake_reader, 4096)
            report_ended_workers(status_pipes)
        if control.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(control, 16, 3)
            if not message:
                end_all_workers(status_pipes)
            channel, output, status = descriptors
            parent = os.getpid()
            pid = fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (control.detach(), wake_reader, wake_writer, status, *status_pipes.values()):
                    os.close(descriptor)
                become_worker(output, parent)
                return socket.socket(fileno=channel)
            os.close(channel)
            os.close(output)
            if pid is None:
                os.close(status)  # without an id: the server sees that there is no worker
            else:
                os.setpgid(pid, pid)  # before the server knows the id, so that it finds the group when it kills
                status_pipes[pid] = status
                tell(status, pid)


def wake_up_when_a_child_ends() -> tuple[int, int]:
    """A pipe whose reading end becomes readable then."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer)
    return reader, writer


def fork() -> int | None:
    """os.fork(), or None where the system has no room for another process."""
    try:
        return os.fork()
    except OSError:
        return None


def end_all_workers(pids: Iterable[int]) -> NoReturn:
    for pid in pids:
        os.killpg(pid, signal.SIGKILL)
    os._exit(0)


def report_ended_workers(status_pipes: dict[int, int]) -> None:
    while status_pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = status_pipes.pop(pid)
        tell(pipe, os.waitstatus_to_exitcode(status))
        os.close(pipe)


def tell(pipe: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the server has gone; the end of the control socket says so too
        os.write(pipe, f"{number}\n".encode())


def become_worker(output: int, parent: int) -> None:
    os.setpgid(0, 0)  # a process group of its own: it is killed with whatever its handler starts
    end_when_parent_dies(parent)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def end_when_parent_dies(parent: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def end_when_standard_input_closes() -> None:
    """Where there is no parent that forks: a thread that ends the process group when the server has gone.

    A handler inside one long call that holds the interpreter's lock ends when that call does.
    """
    import threading

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main() -> None:
    runtime_folder, task, descriptor = sys.argv[1:]
    sys.path.append(runtime_folder)
    channel = socket.socket(fileno=int(descriptor))
    if task == "forks":
        load_what_handlers_use()
        channel = fork_workers(channel)
    else:
        end_when_standard_input_closes()
    run_function(channel)


if __name__ == "__main__":
    main()
