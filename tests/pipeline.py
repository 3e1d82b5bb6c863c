"""The whole pipeline on a local AWS, small: a model, its endpoint, the three functions, the parallel state machine."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import boto3
from conftest import ROOT
from sagemaker_jobs import (
    BUCKET,
    ROLE,
    create_config,
    create_model,
    png,
    training_request,
    upload_channels,
    wait_for_endpoint,
    wait_for_training,
)

from scones import workflow

ENDPOINT = "scones-unlimited-classifier"
FUNCTIONS = {
    "ImageDataSerialize": "serialize",
    "ImageDataInference": "inference",
    "ImageDataPassThreshold": "pass_threshold",
}
TAGS = {"project": "scones-unlimited", "run": "pipeline"}
DEFINITION = ROOT / "parallel_state_machine_definition.json"


def train() -> bytes:
    """The model.tar.gz of a training job on drawn images."""
    boto3.client("sagemaker").create_training_job(**training_request("pipeline", upload_channels("pipeline")))
    job = wait_for_training("pipeline")
    bucket, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").split("/", 1)
    return boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()


def deploy(artifact: bytes, endpoint: str = ENDPOINT) -> str:
    """Endpoint with everything captured below s3://BUCKET/captures, functions and state machine; returns its ARN."""
    deploy_endpoint(artifact, endpoint)
    deploy_functions()
    return workflow.deploy_state_machine(boto3.Session(), "many-images", DEFINITION, ROLE, TAGS)


def deploy_functions(threshold: float = 0.9) -> None:
    session = boto3.Session()
    for name, folder in FUNCTIONS.items():
        environment = {"THRESHOLD": str(threshold)} if folder == "pass_threshold" else {}
        workflow.deploy_function(session, name, ROOT / "lambda_functions" / folder, ROLE, environment, TAGS)


def deploy_endpoint(artifact: bytes, endpoint: str = ENDPOINT) -> None:
    boto3.client("s3").put_object(Bucket=BUCKET, Key=f"models/{endpoint}/model.tar.gz", Body=artifact)
    create_model(endpoint, f"s3://{BUCKET}/models/{endpoint}/model.tar.gz")
    create_config(endpoint, endpoint, capture_to=f"s3://{BUCKET}/captures")
    boto3.client("sagemaker").create_endpoint(EndpointName=endpoint, EndpointConfigName=endpoint)
    wait_for_endpoint(endpoint)


def upload_images(prefix: str, count: int) -> list[dict]:
    """As many different images under s3://BUCKET/prefix; returns the workflow's inputs for them."""
    s3 = boto3.client("s3")

    def upload(number: int) -> dict:
        key = f"{prefix}/{number:05d}.png"
        s3.put_object(Bucket=BUCKET, Key=key, Body=png(number % 2, seed=number))
        return {"image_data": "", "s3_bucket": BUCKET, "s3_key": key, "inferences": []}

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(upload, range(count)))


class MapRun:
    """A run of the parallel state machine that is under way."""

    def __init__(self, machine: str, events):
        self._client = boto3.client("stepfunctions")
        self.arn = self._client.start_execution(stateMachineArn=machine, input=json.dumps(events))["executionArn"]

    def counts(self) -> dict[str, int]:
        """How many items are pending, running, succeeded, failed ...; nothing before the Map Run has begun."""
        runs = self._client.list_map_runs(executionArn=self.arn)["mapRuns"]
        return self._client.describe_map_run(mapRunArn=runs[0]["mapRunArn"])["itemCounts"] if runs else {}

    def wait_for(self, ended: int, seconds: float = 60) -> None:
        """Returns once so many images have ended, in whatever way."""
        deadline = time.monotonic() + seconds
        while sum(self.counts().get(name, 0) for name in ("succeeded", "failed", "aborted")) < ended:
            assert time.monotonic() < deadline, self.counts()
            time.sleep(0.02)

    def results(self, seconds: float = 120) -> list[dict]:
        """What each image ended in, once all have."""
        deadline = time.monotonic() + seconds
        while (execution := self._client.describe_execution(executionArn=self.arn))["status"] == "RUNNING":
            assert time.monotonic() < deadline, f"still runs after {seconds} s: {self.counts()}"
            time.sleep(0.1)
        assert execution["status"] == "SUCCEEDED", execution
        return workflow.map_results(boto3.Session(), {"output": json.loads(execution["output"])})


def key_of(result: dict) -> str:
    """The S3 key of the image that ended in this result or failure."""
    return (json.loads(result["Input"]) if "Status" in result else result)["s3_key"]


def failures(results: list[dict]) -> Counter:
    """How often each error ended an image."""
    return Counter(result["Error"] for result in results if "Status" in result)


def captured(prefix: str = "captures") -> list[dict]:
    """The captured records below s3://BUCKET/prefix."""
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    bodies = [
        s3.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read()
        for page in pages
        for found in page.get("Contents", [])
    ]
    return [json.loads(line) for body in bodies for line in body.splitlines()]
