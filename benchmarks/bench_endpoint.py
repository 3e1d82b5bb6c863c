"""Latency and throughput of a local endpoint, with and without data capture, beside the bare model server.

    python benchmarks/bench_endpoint.py [--seconds 5] [--json FILE]

Every row is one client count for that many seconds: p50 and p99 of one call in milliseconds, and calls a second. The
calls go through boto3 in threads of this process, which has to share the machine with what it measures.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import boto3
import psutil
import urllib3
from botocore.config import Config
from sagemaker_jobs import (
    BUCKET,
    create_config,
    create_model,
    png,
    training_request,
    upload_channels,
    wait_for_endpoint,
    wait_for_training,
)

import local_aws

CLIENTS = (1, 8, 32)


def measure(call: Callable[[], None], clients: int, seconds: float) -> dict:
    """p50 and p99 in milliseconds, and calls a second, of that many clients calling one after another."""
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    def keep_calling():
        while (started := time.perf_counter()) < stop:
            call()
            latencies.append(time.perf_counter() - started)

    threads = [threading.Thread(target=keep_calling) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuts = statistics.quantiles(latencies, n=100)
    return {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000, "calls_a_second": len(latencies) / seconds}


def start_endpoints() -> None:
    boto3.client("sagemaker").create_training_job(**training_request("bench", upload_channels("bench")))
    create_model("bench", wait_for_training("bench")["ModelArtifacts"]["S3ModelArtifacts"])
    for name, capture_to in (("plain", None), ("captured", f"s3://{BUCKET}/captures")):
        create_config(name, "bench", capture_to)
        boto3.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)
        wait_for_endpoint(name)


def model_server_port(aws: local_aws.LocalAws) -> int:
    server = psutil.Process(aws._process.pid)
    model_server = next(child for child in server.children() if "serve" in child.cmdline())
    return next(c.laddr.port for c in model_server.net_connections() if c.status == psutil.CONN_LISTEN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    aws = local_aws.start()
    start_endpoints()
    image = png(0, seed=1)
    runtime = boto3.client("sagemaker-runtime", config=Config(max_pool_connections=max(CLIENTS)))
    bare = urllib3.HTTPConnectionPool("127.0.0.1", model_server_port(aws), maxsize=max(CLIENTS))
    headers = {"Content-Type": "image/png"}
    ways = {
        "bare model server": lambda: bare.request("POST", "/invocations", body=image, headers=headers).data,
        "endpoint": lambda: invoke(runtime, "plain", image),
        "endpoint with capture": lambda: invoke(runtime, "captured", image),
    }
    rows = []
    print("| way | clients | p50 ms | p99 ms | calls/s |\n|---|---|---|---|---|")
    for clients in CLIENTS:
        for way, call in ways.items():
            figures = measure(call, clients, options.seconds)
            rows.append({"way": way, "clients": clients, **{name: round(value, 2) for name, value in figures.items()}})
            print(
                f"| {way} | {clients} | {figures['p50_ms']:.1f} | {figures['p99_ms']:.1f} | {figures['calls_a_second']:.0f} |"
            )
    aws.stop()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def invoke(runtime, name: str, image: bytes) -> bytes:
    answer = runtime.invoke_endpoint(EndpointName=name, Body=image, ContentType="image/png")
    return answer["Body"].read()


if __name__ == "__main__":
    main()
