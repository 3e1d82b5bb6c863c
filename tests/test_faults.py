"""What breaks while real work runs, and what comes out: of every image one result or one named failure."""

import asyncio
import base64
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from conftest import ROOT, children_of, is_alive, own_server, processes_of
from jupyter_client import AsyncKernelManager
from pipeline import ENDPOINT, FUNCTIONS, MapRun, captured, deploy, failures, key_of, train, upload_images
from sagemaker_jobs import BUCKET, png, training_request, until, upload_channels, wait_for_training

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


def messages(group: str) -> list[str]:
    """The lines of a log group."""
    pages = boto3.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    return [event["message"] for page in pages for event in page["events"]]


def assert_captured_once(endpoint: str = ENDPOINT) -> None:
    """Every call that the endpoint has answered, by its own log, is in exactly one captured record."""
    calls = sum("status 200, ModelLatency" in message for message in messages(f"/aws/sagemaker/Endpoints/{endpoint}"))
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


def test_no_image_is_in_the_functions_logs(aws, machine, images):
    """Of 500 images that passed and failed, of events without one, and of one that is no image."""
    run = MapRun(machine, [*images[:20], {"s3_bucket": BUCKET}, {**images[0], "s3_key": "missing"}])
    assert len(run.results()) == 22
    secret = base64.b64encode(b"an image that nobody may log " * 9).decode()
    for name, body in (
        ("ImageDataInference", {"image_data": secret}),
        ("ImageDataInference", {"image_data": secret + "!"}),
    ):
        boto3.client("lambda").invoke(FunctionName=name, Payload=json.dumps(body))
    images_as_text = [base64.b64encode(png(number % 2, seed=number)).decode()[60:100] for number in range(20)]
    for name in FUNCTIONS:
        lines = "\n".join(messages(f"/aws/lambda/{name}"))
        assert "REPORT RequestId" in lines
        assert not [text for text in (secret[:40], *images_as_text) if text in lines]


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
    url: str
    broken: set[str]
    broken_once: set[str]
    slow: dict[str, float]

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
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked did not wait for a late answer
            super().handle()


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
    assert [ended[key] for key in keys[20:22]] == ["StorageUnavailable", "StorageUnavailable"]
    assert ended[keys[40]] == "Sandbox.Timedout"
    others = {ended[key] for key in keys if key not in (*keys[20:22], keys[40])}
    assert others <= {None, "ThresholdNotMet"}
    assert s3_of_the_functions.broken_once == set()
    assert_captured_once()


STEPPING_CLOCK = """
import os, sys, time

if "local_aws" in sys.orig_argv:
    true_time, flag = time.time, os.environ["CLOCK_STEP"]

    def stepped_time():
        try:
            return true_time() + float(os.readlink(flag))
        except OSError:
            return true_time()

    time.time = stepped_time
"""


def step_clock(flag: Path, seconds: int) -> None:
    flag.unlink(missing_ok=True)
    flag.symlink_to(str(seconds))


def test_a_clock_that_steps_and_a_second_server_change_no_result(aws, machine, artifact, images, tmp_path):
    """The second server's clock goes an hour ahead and two back; the first one works on beside it."""
    (tmp_path / "sitecustomize.py").write_text(STEPPING_CLOCK)
    flag = tmp_path / "step"
    beside = MapRun(machine, images[100:140])
    with own_server(PYTHONPATH=str(tmp_path), CLOCK_STEP=str(flag)):
        run = MapRun(deploy(artifact), events := upload_images("stepped", 40))
        for ended, step in ((10, 3600), (25, -3600)):
            run.wait_for(ended)
            step_clock(flag, step)
        results = run.results()
        assert_one_end_each(events, results)
        assert set(failures(results)) <= {"ThresholdNotMet"}
        assert_captured_once()
    results = beside.results()
    assert_one_end_each(images[100:140], results)
    assert set(failures(results)) <= {"ThresholdNotMet"}
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


def disk_of(server: local_aws.LocalAws, folder: Path) -> Path:
    """The server's temporary folder as it sees it: a small disk of its own."""
    return Path(f"/proc/{server.pid}/root{folder}")


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A Python that has tmp_path on a disk of 48 MB; skips where this user may not mount one."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=48m none '{tmp_path}'"
    if not shutil.which("unshare") or subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    python = tmp_path.with_suffix(".python")
    program = f"{mount} && exec '{sys.executable}' \"$@\""
    python.write_text(f'#!/bin/sh\nexec {" ".join(unshare)} sh -c {shlex.quote(program)} - "$@"\n')
    python.chmod(0o700)
    monkeypatch.setattr(local_aws.client.sys, "executable", str(python))
    return tmp_path


def test_a_full_disk_ends_no_image_twice_and_work_goes_on_once_there_is_room(small_disk, artifact):
    with own_server(TMPDIR=str(small_disk)) as server:
        machine = deploy(artifact)
        events = upload_images("full", 60)
        run = MapRun(machine, events)
        run.wait_for(10)
        filler = disk_of(server, small_disk) / "filler"
        fill(filler)
        results = run.results()
        assert_one_end_each(events, results)
        assert set(failures(results)) <= {"ThresholdNotMet", "Lambda.ServiceException"}
        states = boto3.client("stepfunctions")
        for child in children_of_map(states, run):
            assert states.get_execution_history(executionArn=child)["events"][-1]["type"].startswith("Execution")
        filler.unlink()
        again = MapRun(machine, events).results()
        assert_one_end_each(events, again)
        assert set(failures(again)) <= {"ThresholdNotMet"}
        assert_captured_once()


def fill(file: Path) -> None:
    with open(file, "wb", buffering=0) as disk:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while disk.write(bytes(size)):
                    pass
            except OSError:
                continue


def children_of_map(states, run: MapRun) -> list[str]:
    [map_run] = states.list_map_runs(executionArn=run.arn)["mapRuns"]
    return [child["executionArn"] for child in states.list_executions(mapRunArn=map_run["mapRunArn"])["executions"]]


def test_a_killed_server_takes_everything_with_it_and_the_next_call_says_what_to_do(artifact):
    with own_server() as server:
        run = MapRun(deploy(artifact), upload_images("killed", 40))
        boto3.client("sagemaker").create_training_job(**training_request("alive", upload_channels("alive")))
        until(lambda: processes_of(server.pid, "train"))
        run.wait_for(5)
        started = children_of(server.pid)
        assert len(started) >= 4
        s3 = boto3.client("s3")
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not any(is_alive(pid) for pid in started), 10)
        began = time.monotonic()
        with pytest.raises(local_aws.LocalAwsGone, match=r"is gone .*run the notebook again from its first cell"):
            s3.list_buckets()
        assert time.monotonic() - began < 1
        again = local_aws.start()
        assert [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]] == [BUCKET]
        assert not Path(server.environment["SAGEMAKER_USER_CONFIG_OVERRIDE"]).parent.exists()
        again.stop()


def test_the_sdk_talks_to_the_server_that_was_started_last():
    from sagemaker.core.resources import TrainingJob

    with own_server() as first:
        assert list(TrainingJob.get_all()) == []
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(local_aws.LocalAwsGone):
            list(TrainingJob.get_all())
        again = local_aws.start()
        assert list(TrainingJob.get_all()) == []
        again.stop()


@contextlib.asynccontextmanager
async def notebook_kernel(folder: Path):
    """(manager, client) of a notebook's kernel, as Jupyter starts it."""
    manager = AsyncKernelManager(transport="ipc", ip=str(folder / "kernel"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
    await manager.start_kernel(cwd=str(ROOT), env={**kept, "PYDEVD_DISABLE_FILE_VALIDATION": "1"})
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=30)
    yield manager, client
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


async def printed_by(client, code: str) -> str:
    """What a cell printed, or the error it ended in."""
    output = []

    def keep(message: dict) -> None:
        content = message["content"]
        output.append(content.get("text") or f"{content.get('ename', '')} {content.get('evalue', '')}")

    await client.execute_interactive(code, timeout=60, output_hook=keep)
    return "".join(output)


async def interrupt_a_cell(folder: Path) -> int:
    """The process id of the local AWS of a notebook, one of whose cells was interrupted before it was closed."""
    async with notebook_kernel(folder) as (manager, client):
        connect = "import local_aws, boto3, os; url = local_aws.connect(); print(url)"
        url = await printed_by(client, connect)
        await printed_by(client, "boto3.client('s3').create_bucket(Bucket='kept')")
        endless = asyncio.create_task(printed_by(client, "while True: boto3.client('s3').list_buckets()"))
        await asyncio.sleep(1)
        await manager.interrupt_kernel()
        assert "KeyboardInterrupt" in await endless
        buckets = "print([bucket['Name'] for bucket in boto3.client('s3').list_buckets()['Buckets']])"
        assert "'kept'" in await printed_by(client, buckets)
        assert await printed_by(client, connect) == url
        return int(await printed_by(client, "print(local_aws.client._current.pid)"))


def test_ctrl_c_ends_a_cell_and_the_local_aws_ends_with_the_notebook_alone(tmp_path):
    server = asyncio.run(interrupt_a_cell(tmp_path))
    until(lambda: not is_alive(server), 20)


def test_a_short_soak_loses_no_record_and_nothing_grows():
    soak = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--images", "40", "--minutes", "0.1"]
    ended = subprocess.run(soak, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "memory kept of an image" in ended.stdout
