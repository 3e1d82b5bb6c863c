"""Starts and stops the local AWS from another program, and points that program at it."""

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path

# Settings of a real account that would lead requests away from the local one.
FOREIGN_VARIABLES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")


class LocalAws:
    """A running local AWS in a process of its own; it ends when stop() is called or this process ends."""

    def __init__(self, process: subprocess.Popen, environment: dict[str, str]):
        self._process = process
        self.environment = environment
        self.url = environment["AWS_ENDPOINT_URL"]
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends the server and everything it started; a second call does nothing."""
        atexit.unregister(self.stop)
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


def start(port: int = 0, region: str = "us-east-1") -> LocalAws:
    """Starts a local AWS and sets this process's environment so that boto3 and the SageMaker SDK talk to it.

    Make clients after this call: they read the environment when they are made. Raises RuntimeError if it does not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "local_aws", "--for-parent", "--port", str(port), "--region", region],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        },
    )
    announcement = process.stdout.readline()
    if not announcement:
        raise RuntimeError(
            f"the local AWS ended with status {process.wait()} before it was ready; its reason stands above"
        )
    environment = json.loads(announcement)
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(environment)
    return LocalAws(process, environment)
