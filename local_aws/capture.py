"""SageMaker's data capture: requests and answers of an endpoint, as JSON lines in S3.

SageMaker writes a file some minutes after the calls it holds; this one writes after a second. The layout is the same:

    <prefix>/<endpoint>/<variant>/YYYY/MM/DD/HH/MM-SS-mmm-<uuid>.jsonl
"""

import base64
import json
import queue
import random
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone

from local_aws.s3_files import join_key, split_uri

FLUSH_SECONDS = 1.0
RECORDS_A_FILE = 100
ATTEMPTS = 6


@dataclass(frozen=True)
class Call:
    """A call as it was, until the writer makes a record of it."""

    request: bytes
    request_type: str
    answer: bytes
    answer_type: str
    inference_id: str | None
    moment: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


class Capture:
    """Captures one variant's calls: record() returns at once, a thread writes the files, close() writes the rest."""

    def __init__(self, s3, config: dict, endpoint: str, variant: str):
        self._s3 = s3
        self._bucket, prefix = split_uri(config["DestinationS3Uri"])
        self._prefix = join_key(prefix, endpoint, variant)
        self._percentage = config["InitialSamplingPercentage"]
        self._modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
        header = config.get("CaptureContentTypeHeader") or {}
        self._encodings = dict.fromkeys(header.get("JsonContentTypes", []), "JSON")
        self._encodings.update(dict.fromkeys(header.get("CsvContentTypes", []), "CSV"))
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name=f"capture {endpoint}", daemon=True)
        self._writer.start()

    def record(
        self, request: bytes, request_type: str, answer: bytes, answer_type: str, inference_id: str | None
    ) -> None:
        """Captures one call, or not, by the sampling percentage. Never delays or fails the call."""
        if random.random() * 100 < self._percentage:
            self._queue.put(Call(request, request_type, answer, answer_type, inference_id))

    def close(self) -> None:
        """Writes what was recorded until now and ends the thread."""
        self._queue.put(None)
        self._writer.join()

    def _record(self, call: Call) -> dict:
        data = {}
        if self._modes & {"Input", "InputAndOutput"}:
            data["endpointInput"] = self._side("INPUT", call.request, call.request_type)
        if self._modes & {"Output", "InputAndOutput"}:
            data["endpointOutput"] = self._side("OUTPUT", call.answer, call.answer_type)
        metadata = {"eventId": str(uuid.uuid4()), "inferenceTime": f"{call.moment:%Y-%m-%dT%H:%M:%SZ}"}
        if call.inference_id:
            metadata["inferenceId"] = call.inference_id
        return {"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}

    def _side(self, mode: str, data: bytes, content_type: str) -> dict:
        encoding = self._encodings.get(content_type.split(";")[0].strip(), "BASE64")
        text = base64.b64encode(data).decode() if encoding == "BASE64" else data.decode("utf-8", "replace")
        return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}

    def _write(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._next_batch()
            if batch:
                self._put(batch)

    def _next_batch(self) -> tuple[list[Call], bool]:
        """The calls of the next file, and whether more may come: waits for the first, then at most FLUSH_SECONDS."""
        batch: list[Call] = []
        deadline = None
        while len(batch) < RECORDS_A_FILE:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                call = self._queue.get(timeout=left)
            except queue.Empty:
                return batch, True
            if call is None:
                return batch, False
            batch.append(call)
            deadline = deadline or time.monotonic() + FLUSH_SECONDS
        return batch, True

    def _put(self, batch: list[Call]) -> None:
        now = datetime.now(timezone.utc)
        key = f"{self._prefix}/{now:%Y/%m/%d/%H/%M-%S}-{now.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
        body = "".join(json.dumps(self._record(call), separators=(",", ":")) + "\n" for call in batch)
        for attempt in range(ATTEMPTS):
            try:
                self._s3.put_object(Bucket=self._bucket, Key=key, Body=body.encode())
                return
            except Exception as error:  # a capture that cannot be written must never end the capturing of later calls
                failure = error
                time.sleep(2**attempt / 10)
        lost = f"{len(batch)} captured records could not be written to s3://{self._bucket}/{key}"
        print(f"local AWS: {lost}: {failure}", file=sys.stderr)
