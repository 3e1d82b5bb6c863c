"""SageMaker's training jobs: CreateTrainingJob's life, done by a process of the algorithm's own.

What SageMaker does that this does not: instances (the job runs on this machine, whatever InstanceType says, and one at
a time has all of it), VPCs, encryption, spot training, checkpoints, debugger and profiler; those settings are kept in
the job's description and have no effect. Only channels from S3 prefixes in File mode are read.
"""

import json
import re
import shutil
import subprocess
import threading
import time
from datetime import datetime, timezone

from flask import Flask

from local_aws import records
from local_aws.container import Container, check_image
from local_aws.json_protocol import ServiceError, hook, request_region
from local_aws.s3_files import DownloadFailed, download_prefix, join_key, split_uri, upload_folder_as_archive

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
GRACE_SECONDS = 120  # between SageMaker's SIGTERM and its SIGKILL
POLL_SECONDS = 0.2
DEFAULT_MAX_RUNTIME_SECONDS = 86400
ENDED = ("Completed", "Failed", "Stopped")
METRICS = {
    "train:accuracy": r"Epoch\S* Train-accuracy=(\S*)",
    "validation:accuracy": r"Epoch\S* Validation-accuracy=(\S*)",
}
STATUS_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Stopping": "Stopping the training job",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
}


class Training:
    """The training jobs of one server."""

    def __init__(self, server):
        self._server = server
        self._jobs: dict[tuple[str, str], TrainingJob] = {}
        server.at_stop(self._stop_all)

    def attach(self, service: str, app: Flask) -> None:
        if service == "sagemaker":
            hook(
                app,
                before={
                    "CreateTrainingJob": self._check,
                    "StopTrainingJob": self._stop,
                    "DeleteTrainingJob": self._delete,
                },
                after={"CreateTrainingJob": self._start},
            )

    def _check(self, request: dict) -> None:
        if request["TrainingJobName"] in records.sagemaker(request_region(self._server.region)).training_jobs:
            raise ServiceError(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a training "
                f"job with this name already exists ({request['TrainingJobName']})",
            )
        algorithm = request["AlgorithmSpecification"]
        check_image(algorithm.get("TrainingImage", ""))
        for channel in request.get("InputDataConfig") or []:
            _check_channel(channel, algorithm["TrainingInputMode"])
        split_uri(request["OutputDataConfig"]["S3OutputPath"])

    def _start(self, request: dict) -> None:
        region, name = request_region(self._server.region), request["TrainingJobName"]
        job = TrainingJob(self._server, records.sagemaker(region).training_jobs[name], region)
        self._jobs[region, name] = job
        job.start()

    def _stop(self, request: dict) -> dict:
        job = self._jobs.get((request_region(self._server.region), request["TrainingJobName"]))
        if job is None:
            raise ServiceError("ResourceNotFound", f"Requested resource not found: {request['TrainingJobName']}")
        job.stop()
        return {}

    def _delete(self, request: dict) -> dict:
        region, name = request_region(self._server.region), request["TrainingJobName"]
        jobs = records.sagemaker(region).training_jobs
        if name not in jobs:
            raise ServiceError("ResourceNotFound", f"Requested resource not found: {name}")
        status = jobs[name].training_job_status
        if status not in ENDED:
            raise ServiceError("ResourceInUse", f"The training job {name} is {status}; stop it before it is deleted")
        del jobs[name], self._jobs[region, name]
        return {}

    def _stop_all(self) -> None:
        for job in self._jobs.values():
            job.kill()


def _check_channel(channel: dict, job_mode: str) -> None:
    source = channel["DataSource"].get("S3DataSource")
    mode = channel.get("InputMode") or job_mode
    if source is None:
        fault = f"reads S3Prefix data only, not {next(iter(channel['DataSource']), 'no data source')}"
    elif source["S3DataType"] != "S3Prefix":
        fault = f"reads S3Prefix data only, not {source['S3DataType']}"
    elif mode != "File":
        fault = f"supports input mode File only, not {mode}"
    elif channel.get("CompressionType", "None") != "None":
        fault = f"reads uncompressed data only, not {channel['CompressionType']}"
    else:
        return
    raise ServiceError("ValidationException", f"Channel {channel['ChannelName']!r}: the local AWS {fault}")


class TrainingJob:
    """Runs one job on a thread of its own and keeps moto's record of it true at every moment."""

    def __init__(self, server, record, region: str):
        self._server = server
        self._record = record
        self._root = server.run_folder / "training" / region / record.training_job_name
        self._stream = f"{record.training_job_name}/algo-1-{int(time.time())}"
        self._region = region
        self._container: Container | None = None
        self._stop_asked = threading.Event()
        self._lock = threading.Lock()
        self._forget_what_moto_pretends()

    def _forget_what_moto_pretends(self) -> None:
        job = self._record
        job.secondary_status_transitions, job.final_metric_data_list = [], []
        job.training_start_time = job.training_end_time = job.model_artifacts = None
        job.algorithm_specification["MetricDefinitions"] = [
            {"Name": name, "Regex": regex} for name, regex in METRICS.items()
        ]
        self._enter("Starting")

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"training {self._record.training_job_name}", daemon=True).start()

    def stop(self) -> None:
        """Asks the job to stop; it ends Stopped, with the model it has by then."""
        with self._lock:
            if self._record.training_job_status != "InProgress":
                return
            self._enter("Stopping", "Stopping")
            self._stop_asked.set()

    def kill(self) -> None:
        self._stop_asked.set()
        if self._container:
            self._container.kill()

    def _run(self) -> None:
        try:
            self._enter("Downloading")
            self._record.training_start_time = _now()
            self._write_input()
            self._enter("Training")
            outcome = self._train()
            artifact = self._upload() if any((self._root / "model").iterdir()) else None
            with self._lock:
                self._record.model_artifacts = artifact and {"S3ModelArtifacts": artifact}
                self._finish(outcome)
        except DownloadFailed as error:
            self._fail(f"ClientError: Data download failed: {error}")
        except AlgorithmFailed as error:
            self._fail(f"AlgorithmError: {error}")
        except Exception as error:
            self._fail(f"InternalServerError: {type(error).__name__}: {error}")
            raise
        finally:
            shutil.rmtree(self._root, ignore_errors=True)

    def _write_input(self) -> None:
        for folder in ("input/config", "model", "output"):
            (self._root / folder).mkdir(parents=True)
        channels = {channel["ChannelName"]: channel for channel in self._record.input_data_config or []}
        for name, channel in channels.items():
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            download_prefix(self._server.client("s3"), uri, self._root / "input" / "data" / name)
        config = {
            "hyperparameters": self._record.hyper_parameters or {},
            "inputdataconfig": {name: _as_container_sees(channel) for name, channel in channels.items()},
            "resourceconfig": {
                "current_host": "algo-1",
                "hosts": ["algo-1"],
                "network_interface_name": "lo",
                "current_instance_type": self._record.resource_config.get("InstanceType"),
            },
        }
        for name, content in config.items():
            (self._root / "input" / "config" / f"{name}.json").write_text(json.dumps(content))

    def _train(self) -> str:
        """Runs the algorithm to its end; returns the secondary status that the job ends with."""
        if self._stop_asked.is_set():
            return "Stopped"
        self._container = Container("train", self._root, self._log)
        seconds = (self._record.stopping_condition or {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS)
        deadline = time.monotonic() + seconds
        while not self._stop_asked.is_set() and time.monotonic() < deadline:
            status = self._status_within(POLL_SECONDS)
            if status == 0:
                return "Completed"
            if status is not None:
                raise AlgorithmFailed(f"{self._reason(status)}, exit code: {status}")
        self._container.ask_to_stop()
        if self._status_within(GRACE_SECONDS) is None:
            self._container.kill()
        return "Stopped" if self._stop_asked.is_set() else "MaxRuntimeExceeded"

    def _status_within(self, seconds: float) -> int | None:
        """The training process's exit status, None where it has not ended by then."""
        try:
            return self._container.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _reason(self, status: int) -> str:
        failure = self._root / "output" / "failure"
        if failure.exists():
            return failure.read_text().strip()[:1000]
        if status < 0:
            return f"the training process was ended by signal {-status}"
        return "the training process ended without a reason"

    def _upload(self) -> str:
        with self._lock:
            if self._record.training_job_status == "InProgress":
                self._enter("Uploading")
        bucket, prefix = split_uri(self._record.output_data_config["S3OutputPath"])
        key = join_key(prefix, self._record.training_job_name, "output/model.tar.gz")
        upload_folder_as_archive(self._server.client("s3"), self._root / "model", bucket, key)
        return f"s3://{bucket}/{key}"

    def _log(self, line: str) -> None:
        records.put_log_lines(self._region, LOG_GROUP, self._stream, [(int(time.time() * 1000), line)])
        for name, regex in METRICS.items():
            if found := re.search(regex, line):
                self._keep_metric(name, float(found[1]))

    def _keep_metric(self, name: str, value: float) -> None:
        """FinalMetricDataList holds the last value of each metric."""
        others = [metric for metric in self._record.final_metric_data_list if metric["MetricName"] != name]
        metric = {"MetricName": name, "Value": value, "Timestamp": _now()}
        self._record.final_metric_data_list = [*others, metric]

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._record.failure_reason = reason
            self._finish("Failed")

    def _finish(self, secondary: str) -> None:
        job = self._record
        job.training_end_time = _now()
        started = job.training_start_time or job.training_end_time
        job.training_time_in_seconds = max(1, round((job.training_end_time - started).total_seconds()))
        job.billable_time_in_seconds = job.training_time_in_seconds
        self._enter(secondary, "Stopped" if secondary == "MaxRuntimeExceeded" else secondary)

    def _enter(self, secondary: str, status: str = "InProgress") -> None:
        job, now = self._record, _now()
        if job.secondary_status_transitions:
            job.secondary_status_transitions[-1]["EndTime"] = now
        transition = {"Status": secondary, "StartTime": now, "StatusMessage": STATUS_MESSAGES[secondary]}
        if status != "InProgress" and status != "Stopping":
            transition["EndTime"] = now
        job.secondary_status_transitions = [*job.secondary_status_transitions, transition]
        job.last_modified_time = now
        job.secondary_status = secondary
        job.training_job_status = status


class AlgorithmFailed(Exception):
    """The training process ended with a status other than 0."""


def _as_container_sees(channel: dict) -> dict:
    """A channel's entry in inputdataconfig.json."""
    distribution = channel["DataSource"]["S3DataSource"].get("S3DataDistributionType", "FullyReplicated")
    return {
        "ContentType": channel.get("ContentType"),
        "TrainingInputMode": "File",
        "S3DistributionType": distribution,
        "RecordWrapperType": channel.get("RecordWrapperType", "None"),
    }


def _now() -> datetime:
    return datetime.now(timezone.utc)
