"""Executions and Map Runs with trivial handlers, beside stock moto's in the same run.

    python benchmarks/bench_workflows.py [--json FILE]

chain: executions a second of three Lambda tasks, by 1, 8 and 32 clients that start one after the other and wait for it.
map: items a second of a distributed Map of one Lambda task, at MaxConcurrency 10 and 40.

Here the tasks run a real function, which returns its event, in processes of its own. Stock moto cannot do that without
Docker: its functions are those of its "simple" backend, which answers without running anything. It runs in a process of
its own, as it is, with its interpreter switched on. Both get the same definitions, in JSONPath, which is what stock
moto knows; clients and servers share the machine. Every figure is the median of RUNS runs, the two in turns.
"""

import argparse
import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import boto3
from botocore.config import Config
from figures import figure, finish, parser

import local_aws

ROLE = "arn:aws:iam::123456789012:role/LocalRole"
ECHO = "def lambda_handler(event, context):\n    return event\n"
RUNS = 3
CLIENTS = (1, 8, 32)
EXECUTIONS = 64
ITEMS = 400
CONCURRENCY = (10, 40)
POLL_SECONDS = 0.01
INVOKE = {
    "Type": "Task",
    "Resource": "arn:aws:states:::lambda:invoke",
    "Parameters": {"FunctionName": "echo", "Payload.$": "$"},
    "ResultPath": None,
}
CHAIN = {
    "StartAt": "First",
    "States": {
        "First": {**INVOKE, "Next": "Second"},
        "Second": {**INVOKE, "Next": "Third"},
        "Third": {**INVOKE, "End": True},
    },
}


def distributed_map(max_concurrency: int) -> dict:
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
        "StartAt": "Child",
        "States": {"Child": {**INVOKE, "End": True}},
    }
    state = {"Type": "Map", "MaxConcurrency": max_concurrency, "ItemProcessor": processor, "End": True}
    return {"StartAt": "Map", "States": {"Map": state}}


class Target:
    """A server to measure, with the machines and the function made."""

    def __init__(self, url: str, credentials: dict):
        options = {"endpoint_url": url, "region_name": "us-east-1", **credentials}
        self._states = boto3.client("stepfunctions", config=Config(max_pool_connections=max(CLIENTS)), **options)
        boto3.client("iam", **options).get_role(RoleName="LocalRole")
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("lambda_function.py", ECHO)
        boto3.client("lambda", **options).create_function(
            FunctionName="echo",
            Runtime="python3.12",
            Role=ROLE,
            Handler="lambda_function.lambda_handler",
            Code={"ZipFile": code.getvalue()},
        )
        self.chain = self._create("chain", CHAIN)
        self.maps = {number: self._create(f"map-{number}", distributed_map(number)) for number in CONCURRENCY}

    def _create(self, name: str, definition: dict) -> str:
        made = self._states.create_state_machine(name=name, definition=json.dumps(definition), roleArn=ROLE)
        return made["stateMachineArn"]

    def execute(self, machine: str, value) -> None:
        """Starts an execution and waits until it has succeeded."""
        started = self._states.start_execution(stateMachineArn=machine, name=str(uuid.uuid4()), input=json.dumps(value))
        while True:
            execution = self._states.describe_execution(executionArn=started["executionArn"])
            if execution["status"] != "RUNNING":
                break
            time.sleep(POLL_SECONDS)
        if execution["status"] != "SUCCEEDED":
            raise RuntimeError(f"The execution ended {execution['status']}: {execution.get('cause')}")

    def chains_a_second(self, clients: int) -> float:
        left = iter(range(EXECUTIONS))

        def client():
            while next(left, None) is not None:
                self.execute(self.chain, {"n": 1})

        threads = [threading.Thread(target=client) for _ in range(clients)]
        return EXECUTIONS / seconds(lambda: run_all(threads))

    def items_a_second(self, max_concurrency: int) -> float:
        value = [{"n": number} for number in range(ITEMS)]
        return ITEMS / seconds(lambda: self.execute(self.maps[max_concurrency], value))

    def measure(self) -> dict[str, float]:
        chains = {f"chain, {clients} concurrent": self.chains_a_second(clients) for clients in CLIENTS}
        maps = {f"map, MaxConcurrency {number}": self.items_a_second(number) for number in CONCURRENCY}
        return {**chains, **maps}


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def serve_stock_moto() -> None:
    """Serves moto as it is, its interpreter on and its functions without Docker; prints the port; ends with stdin."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["MOTO_PORT"] = str(port)  # where moto's tasks look for moto

    from moto.core.config import default_user_config
    from moto.server import ThreadedMotoServer

    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    default_user_config["lambda"] = {"use_docker": False}
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    print(port, flush=True)
    sys.stdin.read()


@contextlib.contextmanager
def stock_moto() -> Iterator[Target]:
    command = [sys.executable, __file__, "--serve-stock-moto"]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        credentials = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        boto3.client("iam", endpoint_url=url, region_name="us-east-1", **credentials).create_role(
            RoleName="LocalRole", AssumeRolePolicyDocument="{}"
        )
        yield Target(url, credentials)
        process.stdin.close()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--serve-stock-moto", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve_stock_moto:
        serve_stock_moto()
        return

    aws = local_aws.start()
    with stock_moto() as moto:
        here = Target(aws.url, {})
        for target in (here, moto):
            target.execute(target.chain, {"n": 0})
        runs = [(here.measure(), moto.measure()) for _ in range(RUNS)]
    aws.stop()
    rows = []
    for name in runs[0][0]:
        ours, stock = (statistics.median(run[target][name] for run in runs) for target in (0, 1))
        unit = "executions/s" if name.startswith("chain") else "items/s"
        rows.append(figure(name, ours, unit, "higher"))
        rows.append(figure(f"{name}, stock moto", stock, unit))
        rows.append(figure(f"{name}, times stock moto", ours / stock, "x", "higher"))
    finish(rows, chosen.json)


if __name__ == "__main__":
    main()
