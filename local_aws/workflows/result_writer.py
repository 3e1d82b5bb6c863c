"""What a Map Run leaves: the outputs of its children as the state's output, or result files in S3.

What Step Functions does that this does not: it splits result files at 5 GB.
"""

import json
import tempfile
import threading

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from moto.stepfunctions.parser.asl.eval.environment import Environment

from local_aws.s3_files import join_key
from local_aws.workflows import templates
from local_aws.workflows.execution import Execution, iso_date

FILE_OF_STATUS = {"SUCCEEDED": "SUCCEEDED", "FAILED": "FAILED", "TIMED_OUT": "FAILED", "ABORTED": "PENDING"}
REDRIVE_REASONS = {"SUCCEEDED": "Execution is SUCCEEDED and cannot be redriven"}
IN_MEMORY_BYTES = 1 << 20


class WriteFailed(Exception):
    """The results cannot be written; the message says why, in the service's words."""


def results_of(state, env: Environment, map_run) -> "InlineResults | ResultFiles":
    """Where the results of a Map state's children go: add(index, child) as each ends, then output(), once."""
    writer = state.fields.get("ResultWriter", {})
    config = writer.get("WriterConfig", {})
    if "Resource" not in writer:
        return InlineResults(config.get("Transformation", "COMPACT"))
    given = templates.evaluate(env, writer.get("Arguments", writer.get("Parameters", {})), state.language)
    return ResultFiles(map_run, given["Bucket"], given.get("Prefix", ""), config)


class InlineResults:
    """The state's output is the list of the children's results, in the order of the items."""

    def __init__(self, transformation: str):
        self._transformation = transformation
        self._entries: dict[int, list[str]] = {}

    def add(self, index: int, child: Execution) -> None:
        self._entries[index] = _entries(child, self._transformation)

    def output(self) -> list:
        return [json.loads(entry) for _, entries in sorted(self._entries.items()) for entry in entries]


class ResultFiles:
    """<prefix>/<map run id>/manifest.json, SUCCEEDED_0.json, FAILED_0.json and PENDING_0.json.

    Results wait on disk for the end of the Map Run, so that memory does not grow with them.
    """

    def __init__(self, map_run, bucket: str, prefix: str, config: dict):
        self._map_run, self._bucket = map_run, bucket
        self._folder = join_key(prefix, map_run.arn.rsplit(":", 1)[-1])
        self._transformation = config.get("Transformation", "NONE")
        self._is_lines = config.get("OutputType") == "JSONL"
        self._lock = threading.Lock()
        self._files: dict[str, tempfile.SpooledTemporaryFile] = {}

    def add(self, index: int, child: Execution) -> None:
        entries = _entries(child, self._transformation)
        with self._lock:
            for entry in entries:
                self._append(FILE_OF_STATUS[child.status], entry)

    def _append(self, name: str, entry: str) -> None:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = tempfile.SpooledTemporaryFile(  # noqa: SIM115, closed by _upload
                IN_MEMORY_BYTES, dir=self._map_run.execution.workflows.server.run_folder
            )
            file.write(b"" if self._is_lines else b"[")
        else:
            file.write(b"\n" if self._is_lines else b",")
        file.write(entry.encode())

    def output(self) -> dict:
        """Writes the files. Raises WriteFailed."""
        s3 = self._map_run.execution.workflows.server.client("s3")
        try:
            written = {name: self._upload(s3, name) for name in ("FAILED", "PENDING", "SUCCEEDED")}
            manifest = {
                "DestinationBucket": self._bucket,
                "MapRunArn": self._map_run.arn,
                "ResultFiles": written,
            }
            key = f"{self._folder}/manifest.json"
            s3.put_object(Bucket=self._bucket, Key=key, Body=json.dumps(manifest).encode())
        except (ClientError, S3UploadFailedError) as error:
            raise WriteFailed(f"Writing the results to s3://{self._bucket}/{self._folder} failed: {error}") from error
        self._map_run.results_written()
        return {"MapRunArn": self._map_run.arn, "ResultWriterDetails": {"Bucket": self._bucket, "Key": key}}

    def _upload(self, s3, name: str) -> list[dict]:
        if name not in self._files:
            return []
        with self._files[name] as file:
            file.write(b"" if self._is_lines else b"]")
            size = file.tell()
            file.seek(0)
            key = f"{self._folder}/{name}_0.{'jsonl' if self._is_lines else 'json'}"
            s3.upload_fileobj(file, self._bucket, key)
        return [{"Key": key, "Size": size}]


def _entries(child: Execution, transformation: str) -> list[str]:
    """The result of a child as JSON texts. One that failed is always a record of its execution."""
    if child.status != "SUCCEEDED" or transformation == "NONE":
        return [json.dumps(_record(child))]
    if transformation == "FLATTEN":
        output = json.loads(child.output)
        return [json.dumps(entry) for entry in output] if isinstance(output, list) else [child.output]
    return [child.output]


def _record(child: Execution) -> dict:
    given = {"Output": child.output, "Error": child.error, "Cause": child.cause}
    record = {
        "ExecutionArn": child.arn,
        "Input": child.content()["input"],
        "InputDetails": {"Included": True},
        "Name": child.name,
        **{name: value for name, value in given.items() if value is not None},
        "RedriveCount": 0,
        "RedriveStatus": "NOT_REDRIVABLE",
        "RedriveStatusReason": REDRIVE_REASONS.get(child.status, "The local AWS does not redrive executions"),
        "StartDate": iso_date(child.start_date),
        "StateMachineArn": child.machine.arn,
        "Status": child.status,
        "StopDate": iso_date(child.stop_date),
    }
    if child.output is not None:
        record["OutputDetails"] = {"Included": True}
    return record
