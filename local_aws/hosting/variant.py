"""One production variant: its model's files, its process, restarted when it dies, its log and its data capture."""

import shutil
import threading
import time
import uuid

import urllib3
from botocore.exceptions import ClientError
from flask import Response

from local_aws import records
from local_aws.capture import Capture
from local_aws.hosting.model_server import START_SECONDS, ModelServer
from local_aws.json_protocol import ServiceError
from local_aws.s3_files import DownloadFailed, split_uri, unpack_model

LOG_GROUP = "/aws/sagemaker/Endpoints"
LAST_CALLS_SECONDS = 60
RESTART_PAUSE_SECONDS = 1
RETRY_PAUSE_SECONDS = 0.05


class StartFailed(Exception):
    """The model server did not come up; the message says why."""


class ModelError(ServiceError):
    """The model's container answered with an error, or not at all."""

    def __init__(self, status: int, message: str, log_stream_arn: str):
        kind = "client" if status < 500 else "server"
        text = f'Received {kind} error ({status}) from primary with message "{message}". See {log_stream_arn}'
        super().__init__("ModelError", text, 424)
        self._members = {
            "OriginalStatusCode": status,
            "OriginalMessage": message,
            "LogStreamArn": log_stream_arn,
        }

    def response(self, **members) -> Response:
        return super().response(**self._members, **members)


class Variant:
    def __init__(self, server, endpoint: str, config: dict, capture_config: dict, region: str):
        self.name = config["VariantName"]
        self.weight = config.get("InitialVariantWeight", 1.0)
        self._server = server
        self._model_data = config["Container"].get("ModelDataUrl")
        self._root = server.run_folder / "endpoints" / uuid.uuid4().hex
        self._log_group = f"{LOG_GROUP}/{endpoint}"
        self._stream = f"{self.name}/i-{uuid.uuid4().hex[:17]}"
        self._region = region
        self._changed = threading.Condition()
        self._model_server: ModelServer | None = None
        self._closing = False
        self._calls = 0
        self._capture = None
        if capture_config and capture_config.get("EnableCapture"):
            self._capture = Capture(server.client("s3"), capture_config, endpoint, self.name)

    def start(self) -> None:
        """Brings the model and starts its process; returns once it answers. Raises StartFailed or DownloadFailed."""
        self._bring_model()
        self._start_server()
        threading.Thread(target=self._keep_running, name=f"watch {self.name}", daemon=True).start()

    def _bring_model(self) -> None:
        if not self._model_data:
            raise StartFailed(f"The primary container for production variant {self.name} has no ModelDataUrl")
        model, archive = self._root / "model", self._root / "model.tar.gz"
        model.mkdir(parents=True)
        bucket, key = split_uri(self._model_data)
        try:
            self._server.client("s3").download_file(bucket, key, str(archive))
        except ClientError as error:
            raise DownloadFailed(
                f"Could not find model data at {self._model_data}. Please make sure that the role is allowed "
                "to read it and that the S3 location is right."
            ) from error
        unpack_model(archive, model)
        archive.unlink()

    def _start_server(self) -> None:
        model_server = ModelServer(self._root, self._log)
        if not model_server.is_healthy():
            raise StartFailed(
                f"The primary container for production variant {self.name} did not pass the ping health check. "
                f"Please check CloudWatch logs for this endpoint: group {self._log_group}, stream {self._stream}."
            )
        with self._changed:
            if self._closing:
                model_server.kill()
            else:
                self._model_server = model_server
                self._changed.notify_all()

    def _keep_running(self) -> None:
        """Starts the model server again whenever it ends, until the variant is closed."""
        while model_server := self._model_server:
            status = model_server.wait()
            with self._changed:
                self._model_server = None
            if not self._closing:
                self._log(f"The model server ended with status {status}; starting it again")
                self._start_again()

    def _start_again(self) -> None:
        while self._model_server is None and not self._closing:
            try:
                self._start_server()
            except StartFailed as error:
                self._log(str(error))
                time.sleep(RESTART_PAUSE_SECONDS)

    def invoke(self, body: bytes, headers) -> Response:
        """Asks the model. Raises ModelError for whatever is not a 2xx answer."""
        content_type = headers.get("Content-Type", "application/octet-stream")
        wanted = {"Content-Type": content_type}
        if headers.get("Accept", "*/*") != "*/*":
            wanted["Accept"] = headers["Accept"]
        started = time.perf_counter()
        answer = self._ask(body, wanted)
        microseconds = (time.perf_counter() - started) * 1e6
        sizes = f"{len(body)} bytes in, {len(answer.data)} bytes out"
        self._log(f"invocation {content_type} {sizes}, status {answer.status}, ModelLatency {microseconds:.0f} us")
        if answer.status >= 300:
            raise self._model_error(answer.status, answer.data.decode("utf-8", "replace"))
        answer_type = answer.headers.get("Content-Type", "application/octet-stream")
        if self._capture:
            inference_id = headers.get("X-Amzn-SageMaker-Inference-Id")
            self._capture.record(body, content_type, answer.data, answer_type, inference_id)
        return Response(answer.data, 200, {"x-Amzn-Invoked-Production-Variant": self.name}, content_type=answer_type)

    def _ask(self, body: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """A call that finds the model server gone waits for the next one; one that was already in it has failed."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            model_server = self._running_server(deadline)
            try:
                return model_server.ask(body, headers)
            except urllib3.exceptions.NewConnectionError as error:
                if time.monotonic() > deadline:
                    raise self._model_error(503, "The model server takes no calls; see its log") from error
                time.sleep(RETRY_PAUSE_SECONDS)  # until it is noticed that it has ended
            except urllib3.exceptions.HTTPError as error:
                reason = f"The model server gave no answer ({type(error).__name__}); it is started again if it ended"
                self._log(reason)
                raise self._model_error(503, reason) from error

    def _running_server(self, deadline: float) -> ModelServer:
        with self._changed:
            left = deadline - time.monotonic()
            if not self._changed.wait_for(lambda: self._model_server is not None, timeout=max(0, left)):
                raise self._model_error(503, "The model server ended and does not start again; see its log")
            return self._model_server

    def _model_error(self, status: int, message: str) -> ModelError:
        arn = f"arn:aws:logs:{self._region}:{records.ACCOUNT}:log-group:{self._log_group}:log-stream:{self._stream}"
        return ModelError(status, message, arn)

    def _log(self, line: str) -> None:
        records.put_log_lines(self._region, self._log_group, self._stream, [(int(time.time() * 1000), line)])

    def enter(self) -> None:
        with self._changed:
            self._calls += 1

    def leave(self) -> None:
        with self._changed:
            self._calls -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the variant once the calls in flight are answered: their captures are written, the process is gone."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self._calls == 0, timeout=LAST_CALLS_SECONDS)
            model_server = self._model_server
        if model_server:
            model_server.kill()
        if self._capture:
            self._capture.close()
        shutil.rmtree(self._root, ignore_errors=True)
