"""HTTP for the services' WSGI app: a thread for each connection, which carries one request after the other.

werkzeug's server closes the connection after each request and keeps its thread for a moment more, which for the short
calls of a workflow is a large part of the work. A pool of threads, as other servers have, would not do: handlers wait
in it for what they call themselves, and where all of its threads wait nothing goes on.
"""

import contextlib
import traceback
from http import HTTPStatus

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.exceptions import ClientDisconnected, InternalServerError
from werkzeug.test import run_wsgi_app
from werkzeug.wsgi import LimitedStream, get_content_length

READ_BYTES = 1 << 16


class RequestHandler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # with kept connections Nagle's algorithm costs 40 ms a request
    wbufsize = -1  # the headers and the body leave together

    def handle_expect_100(self) -> bool:
        goes_on = super().handle_expect_100()
        self.wfile.flush()  # the client waits for it before it sends the body
        return goes_on

    def run_wsgi(self) -> None:
        environ = self.make_environ()
        if "wsgi.input_terminated" in environ:  # by chunks, after which trailers may come
            self.close_connection = True
        else:
            environ["wsgi.input"] = LimitedStream(self.rfile, get_content_length(environ) or 0)
            environ["wsgi.input_terminated"] = True
        self._answer(*self._ask_app(environ))
        self.wfile.flush()
        with contextlib.suppress(ClientDisconnected):  # what the app left unread is not the next request
            while environ["wsgi.input"].read(READ_BYTES):
                pass

    def _ask_app(self, environ: dict) -> tuple[list[tuple[str, str]], int, bytes]:
        """The headers, the status and the body of the answer."""
        try:
            parts, status, headers = run_wsgi_app(self.server.app, environ, buffered=True)
            return headers.to_wsgi_list(), int(status.split()[0]), b"".join(parts)
        except Exception:
            self.log_error("%s", traceback.format_exc())
            return InternalServerError().get_headers(), 500, InternalServerError.description.encode()

    def _answer(self, headers: list[tuple[str, str]], status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers) and status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_request(self, *_):
        """Requests are not logged: the services' own logs are in CloudWatch Logs, as on AWS."""
