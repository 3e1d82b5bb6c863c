"""Training jobs of the local SageMaker: their life, their log, their artifact, and how they fail."""

import io
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


@pytest.fixture(scope="module")
def channels(local):
    return upload_channels("test-training")


@pytest.fixture(scope="module")
def completed(channels):
    boto3.client("sagemaker").create_training_job(**training_request("completed-job", channels))
    return wait_for_training("completed-job")


def test_a_job_completes_with_its_metrics_times_and_transitions(completed):
    assert completed["TrainingJobStatus"] == "Completed", completed.get("FailureReason")
    metrics = {metric["MetricName"]: metric["Value"] for metric in completed["FinalMetricDataList"]}
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


def test_the_log_is_in_cloudwatch_in_the_built_in_algorithm_s_words(completed):
    logs = boto3.client("logs")
    group = "/aws/sagemaker/TrainingJobs"
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix="completed-job/algo-1-")["logStreams"]
    events = logs.get_log_events(logGroupName=group, logStreamName=streams[0]["logStreamName"])["events"]
    assert any("Validation-accuracy=" in event["message"] for event in events)


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


def test_a_job_that_is_stopped_ends_Stopped(channels):
    client = boto3.client("sagemaker")
    client.create_training_job(**training_request("stopped-job", channels))
    until(lambda: client.describe_training_job(TrainingJobName="stopped-job")["SecondaryStatus"] == "Training")
    client.stop_training_job(TrainingJobName="stopped-job")
    assert client.describe_training_job(TrainingJobName="stopped-job")["TrainingJobStatus"] in ("Stopping", "Stopped")
    assert wait_for_training("stopped-job")["TrainingJobStatus"] == "Stopped"


def test_stopping_a_job_that_is_not_there_is_ResourceNotFound(local):
    with pytest.raises(ClientError) as refusal:
        boto3.client("sagemaker").stop_training_job(TrainingJobName="no-such-job")
    assert refusal.value.response["Error"]["Code"] == "ResourceNotFound"


def test_a_job_ends_at_its_time_limit(channels):
    limit = {"MaxRuntimeInSeconds": 1}
    many = {**HYPERPARAMETERS}
    request = training_request("limited-job", channels, StoppingCondition=limit, HyperParameters=many)
    boto3.client("sagemaker").create_training_job(**request)
    job = wait_for_training("limited-job")
    assert job["SecondaryStatus"] in ("MaxRuntimeExceeded", "Completed")
    assert job["TrainingTimeInSeconds"] <= 30
