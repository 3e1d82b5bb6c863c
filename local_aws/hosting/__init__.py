"""SageMaker's endpoints: CreateEndpoint's life, and InvokeEndpoint answered by a model server process of each variant.

What SageMaker does that this does not: instances (each variant is one process on this machine, whatever InstanceType
and InitialInstanceCount say), autoscaling, multi-model and asynchronous endpoints, streaming answers, shadow variants.
"""

import json
import urllib.parse

from flask import Flask, Response, request

from local_aws import records
from local_aws.container import check_image
from local_aws.hosting.endpoint import Endpoint
from local_aws.json_protocol import ServiceError, hook, request_region

MAX_BODY_BYTES = 25 * 1024**2


class Hosting:
    """The endpoints of one server."""

    def __init__(self, server):
        self._server = server
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        records.give_endpoint_configs_one_arn()
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
            arn = _arn(backend, "endpoint", call["EndpointName"])
            raise ServiceError("ValidationException", f"Cannot create already existing endpoint {arn!r}.")
        self._variants(call["EndpointConfigName"])

    def _create(self, call: dict) -> None:
        backend, name, config = self._backend(), call["EndpointName"], call["EndpointConfigName"]
        endpoint = Endpoint(self._server, backend.endpoints[name], backend.region_name)
        self._endpoints[backend.region_name, name] = endpoint
        endpoint.deploy("Creating", config, self._variants(config), self._capture_config(config))

    def _update(self, call: dict) -> dict:
        backend, name, config = self._backend(), call["EndpointName"], call["EndpointConfigName"]
        arn = _arn(backend, "endpoint", name)
        endpoint = self._endpoints.get((backend.region_name, name))
        if endpoint is None:
            raise ServiceError("ValidationException", f"Could not find endpoint {arn!r}.")
        status = endpoint.record.endpoint_status
        if status == "Failed":
            raise ServiceError("ValidationException", f"Cannot update endpoint {arn!r}: it has failed, delete it.")
        if status != "InService":
            raise ServiceError("ValidationException", f"Cannot update in-progress endpoint {arn!r}.")
        endpoint.deploy("Updating", config, self._variants(config), self._capture_config(config))
        return {"EndpointArn": arn}

    def _delete(self, call: dict) -> None:
        endpoint = self._endpoints.pop((self._backend().region_name, call["EndpointName"]), None)
        if endpoint:
            endpoint.close()

    def _variants(self, config_name: str) -> list[dict]:
        """The variants of an endpoint config, each with its model's container. Raises ValidationException."""
        backend = self._backend()
        config = backend.endpoint_configs.get(config_name)
        if config is None:
            arn = _arn(backend, "endpoint-config", config_name)
            raise ServiceError("ValidationException", f"Could not find endpoint configuration {arn!r}.")
        if config.async_inference_config:
            message = "The local AWS has no asynchronous inference; leave AsyncInferenceConfig out"
            raise ServiceError("ValidationException", message)
        return [{**variant, "Container": _container(backend, variant)} for variant in config.production_variants]

    def _capture_config(self, config_name: str) -> dict:
        return self._backend().endpoint_configs[config_name].data_capture_config

    def _backend(self):
        return records.sagemaker(request_region(self._server.region))

    def _invoke(self) -> Response:
        try:
            return self._called_endpoint().invoke(_body(), request.headers)
        except ServiceError as error:
            return error.response()

    def _called_endpoint(self) -> Endpoint:
        """The one of /endpoints/<name>/invocations. Raises ValidationError where there is none in service."""
        path = request.path.split("/")
        if path[-1] != "invocations":
            raise ServiceError("ValidationError", f"The local AWS has no {path[-1]}; call InvokeEndpoint")
        name = urllib.parse.unquote(path[2])
        endpoint = self._endpoints.get((self._backend().region_name, name))
        if endpoint is None or endpoint.record.endpoint_status in ("Creating", "Failed"):
            raise ServiceError("ValidationError", f"Endpoint {name} of account {records.ACCOUNT} not found.")
        return endpoint

    def _stop_all(self) -> None:
        for endpoint in list(self._endpoints.values()):
            endpoint.close()


def _body() -> bytes:
    body = request.get_data()
    if len(body) > MAX_BODY_BYTES:
        message = f"The request body has {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed"
        raise ServiceError("ValidationError", message, 413)
    return body


def _container(backend, variant: dict) -> dict:
    """The container of a variant's model. Raises ValidationException."""
    model = backend._models.get(variant["ModelName"])
    if model is None:
        arn = _arn(backend, "model", variant["ModelName"])
        raise ServiceError("ValidationException", f"Could not find model {arn!r}.")
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
