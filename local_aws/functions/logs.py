"""The functions' logs, written to CloudWatch Logs off the path of whoever invoked them."""

import queue
import threading
import time
import uuid
from datetime import datetime, timezone

from local_aws import records
from local_aws.functions.function import FunctionVersion


def new_stream_name(function: FunctionVersion) -> str:
    """The name of a worker's log stream, as AWS makes it: the day, the version, a random id."""
    return f"{datetime.now(timezone.utc):%Y/%m/%d}/[{function.version}]{uuid.uuid4().hex}"


class LogWriter:
    """Appends invocations' logs to /aws/lambda/<name>, one thread for all."""

    def __init__(self):
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._write_all, name="Lambda logs", daemon=True).start()

    def write(self, function: FunctionVersion, stream: str, text: str) -> None:
        """Queues the lines of an invocation; they can be read a moment later."""
        self._queue.put((function, stream, text, int(time.time() * 1000)))

    def _write_all(self) -> None:
        while True:
            function, stream, text, moment = self._queue.get()
            # Within a line awslambdaric writes \r for a line break, so that an error and its trace stay one event.
            lines = [(moment, line.replace("\r", "\n") + "\n") for line in text.split("\n") if line]
            records.put_log_lines(function.region, f"/aws/lambda/{function.name}", stream, lines)
