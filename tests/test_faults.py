"""What breaks while real work runs, and what comes out: one result or one named failure of every image, nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.config import Config
from conftest import ROOT, children_of, is_alive, own_server, processes_of
from jupyter_client import KernelManager
from pipeline import ENDPOINT, MapRun, captured, deploy, deploy_endpoint, failures, key_of, train, upload_images
from sagemaker_jobs import BUCKET, training_request, until, upload_channels, wait_for_training

import local_aws

ANSWERED = {"ThresholdNotMet"}  # the errors of images that the endpoint has answered


@pytest.fixture(scope="module")
def aws():
    """A server of this module's own."""
    with own_server() as server:
        yield server


@pytest.fixture(scope="module")
def artifact(aws) -> bytes:
    return train()


@pytest.fixture(scope="module")
def machine(artifact) -> str:
    return deploy(artifact)


@pytest.fixture(scope="module")
def images(aws) -> list[dict]:
    return upload_images("faults", 500)


def assert_one_end_each(events: list[dict], results: list[dict]) -> None:
    assert Counter(map(key_of, results)) == Counter(event["s3_key"] for event in events)


def answered(results: list[dict]) -> int:
    """How many of the images the endpoint has answered."""
    unanswered = sum(count for error, count in failures(results).items() if error not in ANSWERED)
    return len(results) - unanswered


def log_lines(group: str, word: str) -> int:
    """How many lines of a log group hold the word."""
    logs = boto3.client("logs")
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
    return sum(word in event["message"] for page in pages for event in page["events"])


def assert_captured_once(endpoint: str = ENDPOINT) -> None:
    """Every call that the endpoint has answered, by its own log, is in exactly one captured record."""
    calls = log_lines(f"/aws/sagemaker/Endpoints/{endpoint}", "ModelLatency")
    records = until(lambda: len(found := captured(f"captures/{endpoint}")) >= calls and found, 15)
    assert len(records) == calls
    assert len({record["eventMetadata"]["eventId"] for record in records}) == calls


def test_a_killed_model_server_costs_no_image_its_end(aws, machine, images):
    run = MapRun(machine, images)
    run.wait_for(100)
    [server] = processes_of(aws.pid, "serve")
    os.kill(server, signal.SIGKILL)
    results = run.results()
    assert_one_end_each(images, results)
    assert set(failures(results)) <= {"ThresholdNotMet", "EndpointUnavailable"}
    assert answered(results) > 450
    assert_captured_once()
    assert processes_of(aws.pid, "serve") != [server]


def workers(aws) -> list[int]:
    """The processes that run functions: forks of the one that has boto3 loaded, or interpreters of their own."""
    forking = processes_of(aws.pid, "forks")
    return children_of(forking[0]) if forking else processes_of(aws.pid, "worker")


def test_killed_lambda_workers_end_their_own_images_by_name_and_no_other(aws, machine, images):
    run = MapRun(machine, images[:100])
    run.wait_for(20)
    for worker in workers(aws)[:3]:
        os.kill(worker, signal.SIGKILL)
    results = run.results()
    assert_one_end_each(images[:100], results)
    assert set(failures(results)) <= {"ThresholdNotMet", "Runtime.ExitError"}
    assert failures(results)["Runtime.ExitError"] <= 3
    assert_captured_once()


def test_a_killed_training_process_fails_its_job_with_the_reason_and_leaves_no_model(aws):
    client = boto3.client("sagemaker")
    client.create_training_job(**training_request("killed", upload_channels("killed")))
    [process] = until(lambda: processes_of(aws.pid, "train"))
    os.kill(process, signal.SIGKILL)
    job = wait_for_training("killed")
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: the training process was ended by signal 9")
    assert boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="models/killed/")["KeyCount"] == 0


class FaultyS3(BaseHTTPRequestHandler):
    """Stands between a handler and S3: answers 500 or late for the keys that are told, passes everything else on."""

    protocol_version = "HTTP/1.1"
    url = ""
    broken: set[str] = set()
    broken_once: set[str] = set()
    slow: dict[str, float] = {}

    def do_GET(self):
        key = self.path.split("?")[0].lstrip("/").partition("/")[2]
        if key in self.broken or key in self.broken_once:
            self.broken_once.discard(key)
            self.answer(500, b"<Error><Code>InternalError</Code></Error>")
            return
        time.sleep(self.slow.get(key, 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        with urllib.request.urlopen(urllib.request.Request(self.url + self.path, headers=headers)) as found:
            self.answer(200, found.read())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_): ...

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked did not wait for an answer that came late


@pytest.fixture
def s3_of_the_functions(aws, machine, monkeypatch):
    """The FaultyS3 that ImageDataSerialize talks to; its timeout is 5 seconds meanwhile."""
    handler = type("Faulty", (FaultyS3,), {"url": aws.url, "broken": set(), "broken_once": set(), "slow": {}})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    variables = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{proxy.server_port}"}
    configure("ImageDataSerialize", variables, timeout=5)
    yield handler
    configure("ImageDataSerialize", {}, timeout=30)
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def configure(function: str, variables: dict[str, str], timeout: int) -> None:
    boto3.client("lambda").update_function_configuration(
        FunctionName=function, Environment={"Variables": variables}, Timeout=timeout
    )


def test_faults_of_s3_that_pass_cost_nothing_and_those_that_stay_end_their_own_images(
    s3_of_the_functions, machine, images
):
    keys = [event["s3_key"] for event in images[:60]]
    s3_of_the_functions.broken_once.update(keys[10:20])
    s3_of_the_functions.broken.update(keys[20:22])
    s3_of_the_functions.slow.update({**dict.fromkeys(keys[30:40], 0.5), keys[40]: 7})
    results = MapRun(machine, images[:60]).results()
    assert_one_end_each(images[:60], results)
    ended = {key_of(result): result.get("Error") for result in results}
    assert [ended[key] for key in keys[20:22]] == ["ClientError", "ClientError"]
    assert ended[keys[40]] == "Sandbox.Timedout"
    others = {ended[key] for key in keys if key not in (*keys[20:22], keys[40])}
    assert others <= {None, "ThresholdNotMet"}
    assert s3_of_the_functions.broken_once == set()
    assert_captured_once()


def test_an_endpoint_deleted_in_mid_run_ends_the_rest_by_name_and_loses_no_record(aws, artifact, machine, images):
    run = MapRun(machine, images[:60])
    run.wait_for(25)
    boto3.client("sagemaker").delete_endpoint(EndpointName=ENDPOINT)
    results = run.results()
    assert_one_end_each(images[:60], results)
    assert set(failures(results)) <= {"ThresholdNotMet", "EndpointUnavailable"}
    assert failures(results)["EndpointUnavailable"] > 0
    assert answered(results) >= 25
    assert_captured_once()
