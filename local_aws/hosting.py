"""SageMaker's endpoints: CreateEndpoint's life, and InvokeEndpoint answered by a model server process of each variant.

What SageMaker does that this does not: instances (each variant is one process on this machine, whatever InstanceType
and InitialInstanceCount say), autoscaling, multi-model and asynchronous endpoints, streaming answers, shadow variants.
"""

import json
import random
import shutil
import threading
import time
import urllib.parse
import uuid
from datetime import datetime, timezone

import urllib3
from botocore.exceptions import ClientError
from flask import Flask, Response, request

from local_aws import records
from local_aws.capture import Capture
from local_aws.container import Container, check_image
from local_aws.json_protocol import ServiceError, hook, request_region
from local_aws.s3_files import DownloadFailed, split_uri, unpack_model

LOG_GROUP = "/aws/sagemaker/Endpoints"
MAX_BODY_BYTES = 25 * 1024**2
START_SECONDS = 60
LISTENING = "listening on "


class Hosting:
    """The endpoints of one server."""

    def __init__(self, server):
        self._server = server
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        server.at_stop(self._stop_all)

    def attach(self, service: str, app: Flask) -> None:
        if service == "sagemaker":
            hook(
                app,
                before={"CreateEndpoint": self._check, "UpdateEndpoint": self._update, "DeleteEndpoint": self._delete},
                after={"CreateEndpoint": self._create},
            )
            app.after_request(_drop_empty_members)
        if service == "sagemakerruntime":
            app.before_request(self._invoke)

    def _check(self, call: dict) -> None:
        backend = self._backend()
        if call["EndpointName"] in backend.endpoints:
            raise ServiceError(
                "ValidationException",
                f"Cannot create already existing endpoint {_arn(backend, 'endpoint', call['EndpointName'])!r}.",
            )
        self._variants(call["EndpointConfigName"])

    def _create(self, call: dict) -> None:
        backend, name = self._backend(), call["EndpointName"]
        endpoint = Endpoint(self._server, backend.endpoints[name], backend.region_name)
        self._endpoints[backend.region_name, name] = endpoint
        endpoint.deploy(
            self._variants(call["EndpointConfigName"]), self._capture_config(call["EndpointConfigName"]), "Creating"
        )

    def _update(self, call: dict) -> dict:
        backend, name = self._backend(), call["EndpointName"]
        endpoint = self._endpoints.get((backend.region_name, name))
        if endpoint is None:
            raise ServiceError("ValidationException", f"Could not find endpoint {_arn(backend, 'endpoint', name)!r}.")
        if endpoint.record.endpoint_status not in ("InService", "Failed"):
            raise ServiceError("ValidationException", f"Cannot update in-progress endpoint {endpoint.record.arn!r}.")
        variants = self._variants(call["EndpointConfigName"])
        endpoint.record.endpoint_config_name = call["EndpointConfigName"]
        endpoint.deploy(variants, self._capture_config(call["EndpointConfigName"]), "Updating")
        return {"EndpointArn": endpoint.record.arn}

    def _delete(self, call: dict) -> None:
        endpoint = self._endpoints.pop((self._backend().region_name, call["EndpointName"]), None)
        if endpoint:
            endpoint.close()

    def _variants(self, config_name: str) -> list[dict]:
        """The variants of an endpoint config, each with its model's container. Raises ValidationException."""
        backend = self._backend()
        config = backend.endpoint_configs.get(config_name)
        if config is None:
            raise ServiceError(
                "ValidationException",
                f"Could not find endpoint configuration {_arn(backend, 'endpoint-config', config_name)!r}.",
            )
        if config.async_inference_config:
            raise ServiceError(
                "ValidationException", "The local AWS has no asynchronous inference; leave AsyncInferenceConfig out"
            )
        return [
            {**variant, "Container": _container(backend, variant["ModelName"])}
            for variant in config.production_variants
        ]

    def _capture_config(self, config_name: str) -> dict:
        return self._backend().endpoint_configs[config_name].data_capture_config

    def _backend(self):
        return records.sagemaker(request_region(self._server.region))

    def _invoke(self) -> Response:
        path = request.path.split("/")
        if path[-1] != "invocations":
            return ServiceError("ValidationError", f"The local AWS has no {path[-1]}; call InvokeEndpoint").response()
        backend, name = self._backend(), urllib.parse.unquote(path[2])
        try:
            endpoint = self._endpoints.get((backend.region_name, name))
            if endpoint is None or endpoint.record.endpoint_status in ("Creating", "Failed"):
                raise ServiceError("ValidationError", f"Endpoint {name} of account {records.ACCOUNT} not found.")
            body = request.get_data()
            if len(body) > MAX_BODY_BYTES:
                raise ServiceError(
                    "ValidationError",
                    f"The request body has {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed",
                    413,
                )
            return endpoint.invoke(body, request.headers)
        except ModelError as error:
            return error.response(
                OriginalStatusCode=error.original_status,
                OriginalMessage=error.original_message,
                LogStreamArn=error.log_stream_arn,
            )
        except ServiceError as error:
            return error.response()

    def _stop_all(self) -> None:
        for endpoint in list(self._endpoints.values()):
            endpoint.close()


def _container(backend, model_name: str) -> dict:
    model = backend._models.get(model_name)
    if model is None:
        raise ServiceError("ValidationException", f"Could not find model {_arn(backend, 'model', model_name)!r}.")
    container = model.primary_container or (model.containers or [{}])[0]
    check_image(container.get("Image", ""))
    return container


def _arn(backend, kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{backend.region_name}:{records.ACCOUNT}:{kind}/{name}"


def _drop_empty_members(response: Response) -> Response:
    """moto sends {} and [] where SageMaker sends nothing, which the SageMaker SDK refuses to parse."""
    if request.headers.get("X-Amz-Target", "").split(".")[-1].startswith("Describe") and response.status_code == 200:
        content = {name: value for name, value in json.loads(response.get_data()).items() if value not in ({}, [])}
        response.set_data(json.dumps(content))
    return response


class ModelError(ServiceError):
    """The model's container answered with an error, or not at all."""

    def __init__(self, status: int, message: str, log_stream_arn: str):
        kind = "client" if status < 500 else "server"
        super().__init__(
            "ModelError",
            f'Received {kind} error ({status}) from primary with message "{message}". See {log_stream_arn}',
            424,
        )
        self.original_status = status
        self.original_message = message
        self.log_stream_arn = log_stream_arn


class Endpoint:
    """One endpoint: a fleet of variants that answers, replaced as a whole by an update, without a failed call."""

    def __init__(self, server, record, region: str):
        self.record = record
        self.record.data_capture_config = None  # nothing is captured before the endpoint is in service
        self._server = server
        self._region = region
        self._fleet: list[Variant] = []
        self._closed = False
        self._lock = threading.Lock()

    def deploy(self, variants: list[dict], capture_config: dict, status: str) -> None:
        """Starts the variants on a thread; the endpoint is InService once every one answers its ping, else Failed."""
        self._enter(status)
        threading.Thread(
            target=self._deploy,
            args=(variants, capture_config),
            name=f"deploy {self.record.endpoint_name}",
            daemon=True,
        ).start()

    def _deploy(self, configs: list[dict], capture_config: dict) -> None:
        fleet: list[Variant] = []
        try:
            for config in configs:
                fleet.append(Variant(self._server, self.record.endpoint_name, config, capture_config, self._region))
                fleet[-1].start()
        except Exception as error:
            for variant in fleet:
                variant.close()
            self._not_deployed(error)
            return
        self._replace_fleet(fleet, configs, capture_config)

    def _not_deployed(self, error: Exception) -> None:
        self.record.failure_reason = (
            str(error) if isinstance(error, (StartFailed, DownloadFailed)) else f"{type(error).__name__}: {error}"
        )
        self._enter("InService" if self._fleet else "Failed")  # a failed update leaves the old fleet in service

    def _replace_fleet(self, fleet: list["Variant"], configs: list[dict], capture_config: dict) -> None:
        with self._lock:
            replaced, self._fleet = (fleet, []) if self._closed else (self._fleet, fleet)
        if not self._closed:
            self.record.production_variants = self.record._process_production_variants(configs)
            self.record.data_capture_config = _capture_summary(capture_config)
            self.record.failure_reason = None
            self._enter("InService")
        for variant in replaced:
            variant.close()

    def _enter(self, status: str) -> None:
        self.record.endpoint_status = status
        self.record.last_modified_time = datetime.now(timezone.utc)

    def invoke(self, body: bytes, headers) -> Response:
        variant = self._choose(headers.get("X-Amzn-SageMaker-Target-Variant"))
        try:
            return variant.invoke(body, headers)
        finally:
            variant.leave()

    def _choose(self, wanted: str | None) -> "Variant":
        """A variant by its weight, or the one asked for, entered under the lock: an update waits for the call."""
        with self._lock:
            fleet = [variant for variant in self._fleet if wanted in (None, variant.name)]
            if not fleet:
                raise ServiceError(
                    "ValidationError", f"Variant {wanted} of endpoint {self.record.endpoint_name} not found."
                )
            variant = random.choices(fleet, [max(variant.weight, 1e-9) for variant in fleet])[0]
            variant.enter()
            return variant

    def close(self) -> None:
        with self._lock:
            self._closed = True
            fleet, self._fleet = self._fleet, []
        for variant in fleet:
            variant.close()


def _capture_summary(config: dict) -> dict | None:
    if not config:
        return None
    return {
        "EnableCapture": bool(config.get("EnableCapture")),
        "CaptureStatus": "Started" if config.get("EnableCapture") else "Stopped",
        "CurrentSamplingPercentage": config["InitialSamplingPercentage"],
        "DestinationS3Uri": config["DestinationS3Uri"],
    }


class StartFailed(Exception):
    """The model server did not come up; the message says why."""


class Variant:
    """One production variant: its model's files, its process, restarted when it dies, and its data capture."""

    def __init__(self, server, endpoint: str, config: dict, capture_config: dict, region: str):
        self.name = config["VariantName"]
        self.weight = config.get("InitialVariantWeight", 1.0)
        self._server = server
        self._model_data = config["Container"].get("ModelDataUrl")
        self._root = server.run_folder / "endpoints" / uuid.uuid4().hex
        self._log_group = f"{LOG_GROUP}/{endpoint}"
        self._stream = f"{self.name}/i-{uuid.uuid4().hex[:17]}"
        self._region = region
        self._closing = threading.Event()
        self._calls = 0
        self._idle = threading.Condition()
        self._container: Container | None = None
        self._http: urllib3.HTTPConnectionPool | None = None
        self._capture = None
        if capture_config and capture_config.get("EnableCapture"):
            self._capture = Capture(server.client("s3"), capture_config, endpoint, self.name)

    def start(self) -> None:
        """Brings the model and starts its process; returns once it answers. Raises StartFailed or DownloadFailed."""
        self._bring_model()
        self._start_process()
        threading.Thread(target=self._keep_running, name=f"watch {self.name}", daemon=True).start()

    def _bring_model(self) -> None:
        if not self._model_data:
            raise StartFailed("The primary container for production variant {self.name} has no ModelDataUrl")
        model = self._root / "model"
        model.mkdir(parents=True)
        archive = self._root / "model.tar.gz"
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

    def _start_process(self) -> None:
        ready: list[str] = []
        answered = threading.Event()

        def on_line(line: str) -> None:
            self._log(line)
            if line.startswith(LISTENING) and not ready:
                ready.append(line.removeprefix(LISTENING))
                answered.set()

        container = Container("serve", self._root, on_line)
        self._container = container

        def wait_for_end() -> None:
            container.process.wait()
            answered.set()

        threading.Thread(target=wait_for_end, daemon=True).start()
        answered.wait(START_SECONDS)
        if not ready:
            container.kill()
            raise StartFailed(
                f"The primary container for production variant {self.name} did not pass the ping health check. "
                f"Please check CloudWatch logs for this endpoint: group {self._log_group}, stream {self._stream}."
            )
        http = urllib3.HTTPConnectionPool("127.0.0.1", int(ready[0]), maxsize=64, retries=False, timeout=60.0)
        if http.request("GET", "/ping").status != 200:
            container.kill()
            raise StartFailed(
                f"The primary container for production variant {self.name} did not pass the ping health check."
            )
        self._http = http

    def _keep_running(self) -> None:
        while not self._closing.is_set():
            self._container.wait()
            if self._closing.is_set():
                return
            self._log(f"The model server ended with status {self._container.process.returncode}; starting it again")
            try:
                self._start_process()
            except StartFailed as error:
                self._log(str(error))
                self._closing.wait(1)

    def invoke(self, body: bytes, headers) -> Response:
        """Asks the model. Raises ModelError for whatever is not a 2xx answer."""
        content_type = headers.get("Content-Type", "application/octet-stream")
        wanted = {"Content-Type": content_type}
        if "Accept" in headers and headers["Accept"] != "*/*":
            wanted["Accept"] = headers["Accept"]
        started = time.perf_counter()
        try:
            answer = self._http.request("POST", "/invocations", body=body, headers=wanted)
        except urllib3.exceptions.HTTPError as error:
            raise self._model_error(
                503, f"The model server gave no answer ({type(error).__name__}); it is being started again"
            ) from error
        if answer.status >= 300:
            raise self._model_error(answer.status, answer.data.decode("utf-8", "replace"))
        latency = time.perf_counter() - started
        sizes = f"{len(body)} bytes in, {len(answer.data)} bytes out"
        self._log(f"invocation {content_type} {sizes}, ModelLatency {latency * 1e6:.0f} us")
        answer_type = answer.headers.get("Content-Type", "application/octet-stream")
        if self._capture:
            self._capture.record(
                body, content_type, answer.data, answer_type, headers.get("X-Amzn-SageMaker-Inference-Id")
            )
        return Response(answer.data, 200, {"x-Amzn-Invoked-Production-Variant": self.name}, content_type=answer_type)

    def _model_error(self, status: int, message: str) -> ModelError:
        arn = f"arn:aws:logs:{self._region}:{records.ACCOUNT}:log-group:{self._log_group}:log-stream:{self._stream}"
        return ModelError(status, message, arn)

    def _log(self, line: str) -> None:
        records.put_log_lines(self._region, self._log_group, self._stream, [(int(time.time() * 1000), line)])

    def enter(self) -> None:
        with self._idle:
            self._calls += 1

    def leave(self) -> None:
        with self._idle:
            self._calls -= 1
            self._idle.notify_all()

    def close(self) -> None:
        """Ends the variant once the calls in flight are answered: their captures are written, the process is gone."""
        self._closing.set()
        with self._idle:
            self._idle.wait_for(lambda: self._calls == 0, timeout=60)
        if self._container:
            self._container.kill()
        if self._capture:
            self._capture.close()
        shutil.rmtree(self._root, ignore_errors=True)
