"""Hooks on the operations of a service that speaks AWS's JSON protocol, run around moto's own answer."""

import json
import re
from collections.abc import Callable

from flask import Flask, Response, request

CONTENT_TYPE = "application/x-amz-json-1.1"
SCOPE = re.compile(r"Credential=[^/]+/\d+/([^/]+)/")


class ServiceError(Exception):
    """An error as the service answers it: a code that clients match by name, a message, an HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    def response(self, **members) -> Response:
        body = json.dumps({"__type": self.code, "message": self.message, "Message": self.message, **members})
        return Response(body, self.status, {"x-amzn-ErrorType": self.code}, content_type=CONTENT_TYPE)


def request_region(default: str) -> str:
    """The region that the request in hand was signed for."""
    found = SCOPE.search(request.headers.get("Authorization", ""))
    return found[1] if found else default


def hook(
    app: Flask, before: dict[str, Callable[[dict], dict | None]], after: dict[str, Callable[[dict], None]]
) -> None:
    """Calls before[operation](arguments) ahead of moto, and after[operation](arguments) once moto has answered well.

    What a before-hook returns is the answer, and moto is not asked; None lets moto answer. Both may raise ServiceError.
    """

    def operation() -> tuple[str, dict]:
        name = request.headers.get("X-Amz-Target", ".").split(".")[-1]
        return name, json.loads(request.get_data() or b"{}")

    def run_before() -> Response | None:
        name, arguments = operation()
        if name not in before:
            return None
        try:
            answer = before[name](arguments)
        except ServiceError as error:
            return error.response()
        return None if answer is None else Response(json.dumps(answer), content_type=CONTENT_TYPE)

    def run_after(response: Response) -> Response:
        name, arguments = operation()
        if name in after and response.status_code == 200:
            after[name](arguments)
        return response

    app.before_request(run_before)
    app.after_request(run_after)
