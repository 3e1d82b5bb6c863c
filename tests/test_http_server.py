"""HTTP below the services: kept connections, bodies that end where they should, failures that stay in their request."""

import http.client
import threading
from collections.abc import Callable, Iterable

import pytest
from werkzeug.serving import make_server
from werkzeug.wrappers import Request

from local_aws.http_server import RequestHandler

BODY = b"x" * 300_000


def app(environ: dict, start_response: Callable) -> Iterable[bytes]:
    """Answers with the length of the body, which /unread leaves where it is; /fails fails."""
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("it failed")
    read = b"" if environ["PATH_INFO"] == "/unread" else Request(environ).get_data()
    if environ["PATH_INFO"] == "/nothing":
        start_response("204 No Content", [])
        return []
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"read ", b"%d" % len(read)]


@pytest.fixture(scope="module")
def port():
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=RequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.port
    server.shutdown()
    server.server_close()


@pytest.fixture
def connection(port):
    opened = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    yield opened
    opened.close()


def ask(connection, path: str, method: str = "POST", body=None, **headers) -> tuple[int, bytes]:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_connection_carries_one_request_after_the_other(connection):
    assert ask(connection, "/", body=b"abc") == (200, b"read 3")
    socket = connection.sock
    for method, path in (("GET", "/"), ("HEAD", "/"), ("DELETE", "/nothing"), ("GET", "/fails"), ("POST", "/unread")):
        ask(connection, path, method, body=BODY if method == "POST" else None)
        assert connection.sock is socket
    assert ask(connection, "/", body=BODY) == (200, b"read 300000")


def test_a_body_that_was_not_read_is_not_taken_for_the_next_request(connection):
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    assert ask(connection, "/unread", body=smuggled) == (200, b"read 0")
    assert ask(connection, "/", body=b"ab") == (200, b"read 2")


def test_a_body_in_chunks_is_read_to_its_end(connection):
    parts = iter([b"abc", b"defg"])
    connection.request("PUT", "/", parts, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, answer.read(), answer.will_close) == (200, b"read 7", True)


def test_an_answer_to_head_has_a_length_and_no_body(connection):
    connection.request("HEAD", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Length"), answer.read()) == (200, "6", b"")


def test_a_client_that_waits_to_be_told_to_send_its_body_is_told_at_once(connection):
    connection.putrequest("PUT", "/")
    connection.putheader("Expect", "100-continue")
    connection.putheader("Content-Length", "2")
    connection.endheaders()
    assert connection.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(b"ab")
    assert connection.getresponse().read() == b"read 2"


def test_a_request_that_fails_is_answered_with_500_and_the_connection_goes_on(connection, caplog):
    assert ask(connection, "/fails")[0] == 500
    assert "RuntimeError: it failed" in caplog.text
    assert ask(connection, "/", body=b"a") == (200, b"read 1")


def test_a_client_that_leaves_in_the_middle_of_its_body_hurts_nobody_else(port, connection, caplog):
    leaving = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    leaving.putrequest("PUT", "/unread")
    leaving.putheader("Content-Length", "1000")
    leaving.endheaders(b"half")
    leaving.close()
    assert ask(connection, "/", body=b"abc") == (200, b"read 3")
    assert not caplog.text
