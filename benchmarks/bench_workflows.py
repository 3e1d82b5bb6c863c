"""Executions and Map Runs a second, beside stock moto's in the same run.

    python benchmarks/bench_workflows.py [--quick] [--json FILE]

chain: executions a second of three Lambda tasks, by 1, 8 and 32 clients that start one after the other and wait for it.
map: items a second of a distributed Map of one Lambda task, for 100 and 1000 items at MaxConcurrency 10 and 40.

Here the tasks run a real function, which returns its event, in processes of its own. Stock moto cannot do that without
Docker: its functions are those of its "simple" backend, which answers without running anything. It runs in a process of
its own, as it is, with its interpreter switched on. Both get the same definitions, in JSONPath, which is what stock
moto knows; clients and servers share the machine. Every figure is the median of several runs.
"""

import argparse
import io
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import boto3
from botocore.config import Config

import local_aws

ROLE = "arn:aws:iam::123456789012:role/LocalRole"
ECHO = "def lambda_handler(event, context):\n    return event\n"
CLIENTS = (1, 8, 32)
ITEMS = (100, 1000)
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

    def chains_a_second(self, clients: int, executions: int) -> float:
        left = iter(range(executions))

        def client():
            while next(left, None) is not None:
                self.execute(self.chain, {"n": 1})

        threads = [threading.Thread(target=client) for _ in range(clients)]
        return executions / seconds(lambda: run_all(threads))

    def items_a_second(self, items: int, max_concurrency: int) -> float:
        value = [{"n": number} for number in range(items)]
        return items / seconds(lambda: self.execute(self.maps[max_concurrency], value))


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


def measure(target: Target, runs: int, executions: int) -> dict[str, float]:
    """The median of each figure."""
    figures = {}
    target.execute(target.chain, {"n": 0})
    for clients in CLIENTS:
        found = [target.chains_a_second(clients, executions) for _ in range(runs)]
        figures[f"chain, {clients} clients"] = statistics.median(found)
    for items in ITEMS:
        for number in CONCURRENCY:
            found = [target.items_a_second(items, number) for _ in range(runs)]
            figures[f"map, {items} items, MaxConcurrency {number}"] = statistics.median(found)
    return figures


def measure_here(runs: int, executions: int) -> dict[str, float]:
    aws = local_aws.start()
    try:
        return measure(Target(aws.url, {}), runs, executions)
    finally:
        aws.stop()


def measure_stock_moto(runs: int, executions: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--serve-stock-moto"]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        credentials = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        boto3.client("iam", endpoint_url=url, region_name="us-east-1", **credentials).create_role(
            RoleName="LocalRole", AssumeRolePolicyDocument="{}"
        )
        figures = measure(Target(url, credentials), runs, executions)
        process.stdin.close()
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run of each, with fewer executions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--serve-stock-moto", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_stock_moto:
        serve_stock_moto()
        return

    runs, executions = (1, 32) if options.quick else (3, 96)
    here = measure_here(runs, executions)
    stock = measure_stock_moto(runs, executions)
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, {runs} runs\n")
    print(f"{'a second':36} {'here':>8} {'stock moto':>11} {'ratio':>7}")
    for name, figure in here.items():
        print(f"{name:36} {figure:8.1f} {stock[name]:11.1f} {figure / stock[name]:6.1f}x")
    if options.json:
        options.json.write_text(json.dumps({"here": here, "stock moto": stock}, indent=2) + "\n")


if __name__ == "__main__":
    main()
