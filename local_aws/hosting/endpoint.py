"""One endpoint: a fleet of variants that answers, replaced as a whole by an update, without a failed call."""

import random
import threading
from datetime import datetime, timezone

from flask import Response

from local_aws.hosting.variant import StartFailed, Variant
from local_aws.json_protocol import ServiceError
from local_aws.s3_files import DownloadFailed


class Endpoint:
    """Keeps moto's record true: it is InService once every variant answers its ping, else Failed with the reason."""

    def __init__(self, server, record, region: str):
        self.record = record
        self.record.data_capture_config = None  # nothing is captured before the endpoint is in service
        self._server = server
        self._region = region
        self._fleet: list[Variant] = []
        self._closed = False
        self._lock = threading.Lock()

    def deploy(self, status: str, config_name: str, variants: list[dict], capture_config: dict) -> None:
        """Starts a fleet on a thread; status is what the endpoint is meanwhile, Creating or Updating."""
        self._enter(status)
        work = threading.Thread(target=self._deploy, args=(config_name, variants, capture_config), daemon=True)
        work.name = f"deploy {self.record.endpoint_name}"
        work.start()

    def _deploy(self, config_name: str, variants: list[dict], capture_config: dict) -> None:
        fleet: list[Variant] = []
        try:
            for config in variants:
                fleet.append(Variant(self._server, self.record.endpoint_name, config, capture_config, self._region))
                fleet[-1].start()
        except Exception as error:
            _close(fleet)
            self._not_deployed(error)
        else:
            self._replace_fleet(fleet, config_name, variants, capture_config)

    def _not_deployed(self, error: Exception) -> None:
        """A failed update leaves the old fleet and its config in service."""
        is_expected = isinstance(error, (StartFailed, DownloadFailed))
        self.record.failure_reason = str(error) if is_expected else f"{type(error).__name__}: {error}"
        self._enter("InService" if self._fleet else "Failed")

    def _replace_fleet(
        self, fleet: list[Variant], config_name: str, variants: list[dict], capture_config: dict
    ) -> None:
        with self._lock:
            if self._closed:
                replaced = fleet
            else:
                replaced, self._fleet = self._fleet, fleet
                self.record.endpoint_config_name = config_name
                self.record.production_variants = self.record._process_production_variants(variants)
                self.record.data_capture_config = _capture_summary(capture_config)
                self.record.failure_reason = None
                self._enter("InService")
        _close(replaced)

    def _enter(self, status: str) -> None:
        self.record.endpoint_status = status
        self.record.last_modified_time = datetime.now(timezone.utc)

    def invoke(self, body: bytes, headers) -> Response:
        """Raises ModelError for what is not answered, ValidationError for a target variant that there is not."""
        variant = self._choose(headers.get("X-Amzn-SageMaker-Target-Variant"))
        try:
            return variant.invoke(body, headers)
        finally:
            variant.leave()

    def _choose(self, wanted: str | None) -> Variant:
        """A variant by its weight, or the one asked for, entered under the lock: an update waits for the call."""
        with self._lock:
            fleet = [variant for variant in self._fleet if wanted in (None, variant.name)]
            if not fleet:
                message = f"Variant {wanted} of endpoint {self.record.endpoint_name} not found."
                raise ServiceError("ValidationError", message)
            variant = random.choices(fleet, [max(variant.weight, 1e-9) for variant in fleet])[0]
            variant.enter()
            return variant

    def close(self) -> None:
        with self._lock:
            self._closed = True
            fleet, self._fleet = self._fleet, []
        _close(fleet)


def _close(fleet: list[Variant]) -> None:
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
