"""The algorithm's program, run as SageMaker runs its container: a folder that stands for /opt/ml, and a log.

The real service starts a Docker image on an instance of its own. This starts a process on this machine, without
isolation and with all of its cores, and knows one image: the built-in image-classification algorithm.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from local_aws.json_protocol import ServiceError

ALGORITHM = "image-classification"
PROJECT = Path(__file__).parent.parent


def check_image(image: str) -> None:
    """Raises ValidationException for an image that is not the built-in algorithm's."""
    if image.rsplit("/", 1)[-1].split(":")[0].split("@")[0] != ALGORITHM:
        message = f"The local AWS runs the built-in {ALGORITHM} algorithm only, not the image {image!r}"
        raise ServiceError("ValidationException", message)


class Container:
    """One process of the algorithm: "train" or "serve" on a root folder. Ends with the server, however that ends."""

    def __init__(
        self, command: str, root: Path, on_line: Callable[[str], None], environment: dict[str, str] | None = None
    ):
        program = [sys.executable, "-m", f"local_aws.{ALGORITHM.replace('-', '_')}"]
        self.process = subprocess.Popen(
            [*program, command, "--root", str(root), "--end-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            cwd=root,
            env={**_environment(), **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, args=(on_line,), name=f"{command} log", daemon=True)
        self._reader.start()

    def _read(self, on_line: Callable[[str], None]) -> None:
        with self.process.stdout as lines:
            for line in lines:
                on_line(line.rstrip("\n"))

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once the process has ended and its last line was read. Raises subprocess.TimeoutExpired."""
        status = self.process.wait(timeout)
        self._reader.join()
        return status

    def ask_to_stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        """Ends the process and whatever it started; harmless when it has ended already."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()


def _environment() -> dict[str, str]:
    """The algorithm needs no AWS: it gets none of the server's keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
    return {**kept, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
