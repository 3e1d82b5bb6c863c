"""Training jobs of the local SageMaker: their life, their log, their artifact, and how they fail."""

import io
import re
import tarfile

import boto3
import pytest
from botocore.exceptions import ClientError
from sagemaker_jobs import (
    BUCKET,
    HYPERPARAMETERS,
    training_request,
    until,
    upload_channels,
    wait_for_training,
)

MANY = 400
HYPERPARAMETERS_OF_MANY = {**HYPERPARAMETERS, "num_training_samples": str(MANY)}


def metrics_of(job: dict) -> dict[str, float]:
    return {metric["MetricName"]: metric["Value"] for metric in job.get("FinalMetricDataList", [])}


def log_of(name: str) -> list[str]:
    logs = boto3.client("logs")
    group = "/aws/sagemaker/TrainingJobs"
    [stream] = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/algo-1-")["logStreams"]
    events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"])["events"]
    return [event["message"] for event in events]


@pytest.fixture(scope="module")
def channels(local):
    return upload_channels("test-training")


@pytest.fixture(scope="module")
def completed(channels):
    boto3.client("sagemaker").create_training_job(**training_request("completed-job", channels))
    return wait_for_training("completed-job")


def test_a_job_completes_with_its_metrics_times_and_transitions(completed):
    assert completed["TrainingJobStatus"] == "Completed", completed.get("FailureReason")
    metrics = metrics_of(completed)
    assert set(metrics) == {"train:accuracy", "validation:accuracy"}
    assert metrics["validation:accuracy"] > 0.8
    statuses = [transition["Status"] for transition in completed["SecondaryStatusTransitions"]]
    assert statuses == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert completed["TrainingTimeInSeconds"] >= 1
    assert completed["TrainingEndTime"] >= completed["TrainingStartTime"]


def test_the_artifact_is_where_the_job_says_and_holds_plain_files(completed):
    uri = completed["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{BUCKET}/models/completed-job/output/model.tar.gz"
    body = boto3.client("s3").get_object(Bucket=BUCKET, Key="models/completed-job/output/model.tar.gz")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert archive.getmembers()
        assert all(member.isfile() for member in archive.getmembers())


def test_the_log_is_in_cloudwatch_and_its_last_metrics_are_those_of_the_job(completed):
    log = "\n".join(log_of("completed-job"))
    for definition in completed["AlgorithmSpecification"]["MetricDefinitions"]:
        values = re.findall(definition["Regex"], log)
        assert float(values[-1]) == pytest.approx(metrics_of(completed)[definition["Name"]])


def test_a_job_without_pre_training_completes_and_its_log_says_that_it_is_weaker(channels):
    without = {**HYPERPARAMETERS, "use_pretrained_model": "0"}
    boto3.client("sagemaker").create_training_job(**training_request("from-scratch", channels, HyperParameters=without))
    assert wait_for_training("from-scratch")["TrainingJobStatus"] == "Completed"
    assert any("use_pretrained_model=0" in line and "weaker" in line for line in log_of("from-scratch"))


def test_a_second_job_of_the_same_name_is_ResourceInUse(completed, channels):
    with pytest.raises(ClientError) as refusal:
        boto3.client("sagemaker").create_training_job(**training_request("completed-job", channels))
    assert refusal.value.response["Error"]["Code"] == "ResourceInUse"


def test_another_image_is_refused_by_its_name(channels):
    request = training_request("other-image", channels)
    request["AlgorithmSpecification"]["TrainingImage"] = "811284229777.dkr.ecr.us-east-1.amazonaws.com/xgboost:1"
    with pytest.raises(ClientError, match="xgboost"):
        boto3.client("sagemaker").create_training_job(**request)


def test_pipe_mode_is_refused_by_its_name(channels):
    request = training_request("pipe-mode", channels)
    request["AlgorithmSpecification"]["TrainingInputMode"] = "Pipe"
    with pytest.raises(ClientError, match="Pipe"):
        boto3.client("sagemaker").create_training_job(**request)


def test_a_channel_without_objects_fails_the_job_with_its_location(channels):
    empty = [
        dict(channels[0], DataSource={"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/none/"}})
    ]
    boto3.client("sagemaker").create_training_job(**training_request("empty-channel", empty + channels[1:]))
    job = wait_for_training("empty-channel")
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: Data download failed")
    assert f"s3://{BUCKET}/none/" in job["FailureReason"]
    assert "ModelArtifacts" not in job or not job["ModelArtifacts"].get("S3ModelArtifacts")


def test_a_wrong_hyperparameter_fails_the_job_with_one_sentence(channels):
    wrong = {**HYPERPARAMETERS, "num_training_samples": "7"}
    request = training_request("wrong-count", channels, HyperParameters=wrong)
    boto3.client("sagemaker").create_training_job(**request)
    job = wait_for_training("wrong-count")
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: ")
    assert "num_training_samples" in job["FailureReason"]
    assert "exit code: 1" in job["FailureReason"]


def test_a_job_that_is_stopped_keeps_the_model_it_has_by_then(local):
    client = boto3.client("sagemaker")
    many = upload_channels("test-training-many", train=MANY)
    client.create_training_job(**training_request("stopped-job", many, HyperParameters=HYPERPARAMETERS_OF_MANY))
    until(lambda: "train:accuracy" in metrics_of(client.describe_training_job(TrainingJobName="stopped-job")))
    client.stop_training_job(TrainingJobName="stopped-job")
    assert client.describe_training_job(TrainingJobName="stopped-job")["TrainingJobStatus"] in ("Stopping", "Stopped")
    job = wait_for_training("stopped-job")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    artifact = boto3.client("s3").get_object(Bucket=BUCKET, Key="models/stopped-job/output/model.tar.gz")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(artifact)) as archive:
        assert set(archive.getnames()) == {"backbone.onnx", "classifier.npz"}


def test_a_job_that_is_stopped_before_it_has_a_model_keeps_none(channels):
    client = boto3.client("sagemaker")
    client.create_training_job(**training_request("stopped-early", channels))
    client.stop_training_job(TrainingJobName="stopped-early")
    job = wait_for_training("stopped-early")
    assert job["TrainingJobStatus"] == "Stopped"
    assert not job.get("ModelArtifacts", {}).get("S3ModelArtifacts")


def test_a_job_ends_at_its_time_limit(local):
    many = upload_channels("test-training-many", train=MANY)
    limit = {"StoppingCondition": {"MaxRuntimeInSeconds": 1}, "HyperParameters": HYPERPARAMETERS_OF_MANY}
    boto3.client("sagemaker").create_training_job(**training_request("limited-job", many, **limit))
    job = wait_for_training("limited-job")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_stopping_a_job_that_is_not_there_is_ResourceNotFound(local):
    with pytest.raises(ClientError) as refusal:
        boto3.client("sagemaker").stop_training_job(TrainingJobName="no-such-job")
    assert refusal.value.response["Error"]["Code"] == "ResourceNotFound"
