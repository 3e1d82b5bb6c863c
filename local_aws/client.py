"""Starts and stops the local AWS from another program, and points that program at it."""

import atexit
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from local_aws import gone

# Settings of a real account that would lead requests away from the local one.
FOREIGN_VARIABLES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
PROJECT = Path(__file__).parent.parent

_current: "LocalAws | None" = None


class LocalAws:
    """A running local AWS in a process of its own; it ends when stop() is called or this process ends."""

    def __init__(self, process: subprocess.Popen, environment: dict[str, str]):
        self._process = process
        self.environment = environment
        self.url = environment["AWS_ENDPOINT_URL"]
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """The server's process id; what it has started are its children."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends the server and everything it started; a second call does nothing."""
        atexit.unregister(self.stop)
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()
        for name, value in self.environment.items():
            if os.environ.get(name) == value:
                del os.environ[name]


def start(port: int = 0, region: str = "us-east-1") -> LocalAws:
    """Starts a local AWS and sets this process's environment so that boto3 and the SageMaker SDK talk to it.

    Make clients after this call: they read the environment when they are made. Raises RuntimeError if none starts.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "local_aws", "--for-parent", "--port", str(port), "--region", region],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C here, as in an interrupted notebook cell, is not meant for it
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))},
    )
    announcement = process.stdout.readline()
    if not announcement:
        raise RuntimeError(f"The local AWS ended with status {process.wait()} before it was ready; see its error above")
    environment = json.loads(announcement)
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(environment)
    gone.point_at(environment["AWS_ENDPOINT_URL"])
    return LocalAws(process, environment)


def connect() -> str:
    """Points this process at a local AWS and returns its URL: the running one if there is one, else a new one.

    Running are the one that an earlier call here started, and the one that AWS_ENDPOINT_URL names (python -m local_aws
    prints the lines to export). Raises RuntimeError where AWS_ENDPOINT_URL names one that does not answer.
    """
    global _current
    if _current is not None and _current.is_running:
        return _current.url
    if _current is not None:
        _current.stop()
        _current = None
    url = os.environ.get("AWS_ENDPOINT_URL")
    if url is None:
        _current = start()
        return _current.url
    if not _answers(url):
        raise RuntimeError(
            f"No local AWS answers at AWS_ENDPOINT_URL={url}; start one with python -m local_aws and export "
            "the lines it prints, or unset AWS_ENDPOINT_URL to have one started here"
        )
    gone.point_at(url)
    return url


def _answers(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    except OSError:
        return False
    return True
