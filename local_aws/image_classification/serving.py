"""The model server: GET /ping and POST /invocations, as SageMaker calls a container."""

import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from local_aws.image_classification.failures import JobFailed, RequestRefused
from local_aws.image_classification.model import Model, load_model
from local_aws.image_classification.pictures import read_picture
from local_aws.image_classification.server_key import KEY_HEADER, KEY_VARIABLE

IMAGE_TYPES = ("image/png", "image/jpeg", "application/x-image")
JSON, JSON_LINES = "application/json", "application/jsonlines"


def serve(root: Path) -> int:
    """Serves root/model on a free port of 127.0.0.1, which it prints once it answers; returns only where that fails.

    Where MODEL_SERVER_KEY is set, only requests that carry it are answered.
    """
    try:
        model = load_model(root / "model")
    except JobFailed as failure:
        print(failure, flush=True)
        return 1
    server = Server(("127.0.0.1", 0), Handler)
    server.model, server.key = model, os.environ.get(KEY_VARIABLE, "")
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()
    return 0


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    model: Model
    key: str


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def parse_request(self) -> bool:
        """Whether there is a request to answer: what has not the key is refused before its body is read."""
        if not super().parse_request():
            return False
        if hmac.compare_digest(self.headers.get(KEY_HEADER, "").encode(), self.server.key.encode()):
            return True
        self.close_connection = True
        self._answer(403, "This model server answers to the endpoint that started it only", "text/plain")
        return False

    def do_GET(self):
        self._answer(200 if self.path == "/ping" else 404, "", "text/plain")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self._answer(200, *self._predict(body))
        except RequestRefused as refusal:
            self._answer(refusal.status, str(refusal), "text/plain")

    def _predict(self, body: bytes) -> tuple[str, str]:
        """The answer's text and its content type. Raises RequestRefused."""
        if self.path != "/invocations":
            raise RequestRefused(404, f"There is no {self.path}; POST to /invocations")
        kind = (self.headers.get("Content-Type") or "").split(";")[0].strip()
        if kind not in IMAGE_TYPES:
            raise RequestRefused(415, f"Content type {kind!r} is not supported; send one of {', '.join(IMAGE_TYPES)}")
        accept = (self.headers.get("Accept") or JSON).split(";")[0].strip()
        if accept not in (JSON, JSON_LINES, "*/*"):
            raise RequestRefused(406, f"Accept {accept!r} is not supported; ask for {JSON} or {JSON_LINES}")
        probabilities = self.server.model.predict(read_picture(body)[None])[0].tolist()
        if accept == JSON_LINES:
            return json.dumps({"prediction": probabilities}), JSON_LINES
        return json.dumps(probabilities), JSON

    def _answer(self, status: int, text: str, content_type: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Calls are logged by the endpoint, with their latency."""
