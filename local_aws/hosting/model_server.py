"""A process that serves a model: /ping and /invocations on a port of 127.0.0.1 that it chooses and prints."""

import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import urllib3

from local_aws.container import Container
from local_aws.image_classification.server_key import KEY_HEADER, KEY_VARIABLE

LISTENING = "listening on "
START_SECONDS = 60
ANSWER_SECONDS = 60.0
CONNECTIONS = 64


class ModelServer:
    def __init__(self, root: Path, on_line: Callable[[str], None]):
        """Starts the process on root/model; on_line gets each line that it prints."""
        self._on_line = on_line
        self._port: int | None = None
        self._spoke_or_ended = threading.Event()
        self._http: urllib3.HTTPConnectionPool | None = None
        self._key = secrets.token_urlsafe(32)
        self._container = Container("serve", root, self._read, {KEY_VARIABLE: self._key})
        threading.Thread(target=self._watch, name="model server", daemon=True).start()

    def _read(self, line: str) -> None:
        self._on_line(line)
        if self._port is None and line.startswith(LISTENING):
            self._port = int(line.removeprefix(LISTENING))
            self._spoke_or_ended.set()

    def _watch(self) -> None:
        self._container.process.wait()
        self._spoke_or_ended.set()

    def is_healthy(self) -> bool:
        """Whether it answers its ping within START_SECONDS; one that does not is ended."""
        self._spoke_or_ended.wait(START_SECONDS)
        if self._port is not None:
            self._http = urllib3.HTTPConnectionPool(
                "127.0.0.1", self._port, maxsize=CONNECTIONS, retries=False, timeout=ANSWER_SECONDS
            )
            try:
                if self._http.request("GET", "/ping", headers={KEY_HEADER: self._key}).status == 200:
                    return True
            except urllib3.exceptions.HTTPError:
                pass  # it ended after it spoke
        self.kill()
        return False

    def ask(self, body: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Raises NewConnectionError where the call did not reach it, another HTTPError where it gave no answer."""
        return self._http.request("POST", "/invocations", body=body, headers={**headers, KEY_HEADER: self._key})

    def wait(self) -> int:
        """The process's status once it has ended."""
        return self._container.wait()

    def kill(self) -> None:
        self._container.kill()
