"""Who may come in: the server runs whatever code its clients send, so only its own user's programs may reach it.

The real service verifies a signature over the whole request. Here the random access key id is the secret: it is known
to nobody but this server's user, and is checked before anything is dispatched. Signatures are not verified.
"""

import json
import re
from collections.abc import Callable, Iterable

from local_aws import records

CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/")
# boto3 presigns the old way (AWSAccessKeyId) unless it is told otherwise.
PRESIGNED_CREDENTIAL = re.compile(r"(?:^|&)(?:X-Amz-Credential|AWSAccessKeyId)=([^/%&]+)")
S3_SCOPE = re.compile(r"/s3/aws4_request|%2Fs3%2Faws4_request|(?:^|&)AWSAccessKeyId=")


class Door:
    """WSGI middleware that answers 403 to every request that is not from this server's own user."""

    def __init__(self, app: Callable, access_key_id: str):
        self.app = app
        self.access_key_id = access_key_id
        self.hosts: set[str] = set()

    def listen_as(self, port: int) -> None:
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        refusal = self._refusal(environ)
        if refusal is None:
            return self.app(environ, start_response)
        return _forbidden(environ, start_response, *refusal)

    def _refusal(self, environ: dict) -> tuple[str, str] | None:
        if environ.get("HTTP_HOST", "").lower() not in self.hosts:
            return (
                "AccessDenied",
                f"Host {environ.get('HTTP_HOST', '')!r} is not this server's own; use {min(self.hosts)}",
            )
        if "HTTP_ORIGIN" in environ:
            return "AccessDenied", "Requests of web pages (with an Origin header) are refused"
        key = access_key_id(environ)
        if key is None:
            return (
                "MissingAuthenticationToken",
                "The request carries no access key; export the lines that local_aws prints",
            )
        if key != self.access_key_id and not records.has_access_key(key):
            return "UnrecognizedClientException", (
                "The access key is not of this server; it makes a new one at every start: export the lines it printed"
            )
        return None


def access_key_id(environ: dict) -> str | None:
    """The access key id of a signed or presigned request, None where there is neither."""
    found = CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", "")) or PRESIGNED_CREDENTIAL.search(
        environ.get("QUERY_STRING", "")
    )
    return found[1] if found else None


def _forbidden(environ: dict, start_response: Callable, code: str, message: str) -> Iterable[bytes]:
    scope = environ.get("HTTP_AUTHORIZATION", "") + environ.get("QUERY_STRING", "")
    if S3_SCOPE.search(scope):
        kind, body = "application/xml", f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    else:
        kind, body = "application/x-amz-json-1.1", json.dumps({"__type": code, "message": message}).encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("x-amzn-ErrorType", code)]
    start_response("403 Forbidden", headers)
    return [body]
