"""Lambda functions: warm invocations through boto3, cold starts, memory of a worker.

    python benchmarks/bench_functions.py

Each figure is taken with the system's way of starting workers (on Linux: forked from a process that has boto3 loaded)
and with new interpreters, the way that works everywhere.
"""

import io
import os
import platform
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

import boto3

import local_aws
from local_aws.functions.function import FunctionVersion
from local_aws.functions.package import TaskRoots
from local_aws.functions.worker import Starter, Worker, new_starter

PLAIN = "def lambda_handler(event, context):\n    return event\n"
WITH_BOTO3 = "import boto3\ns3 = boto3.client('s3')\n" + PLAIN
WARM_INVOCATIONS = 1000
COLD_STARTS = 10


def zip_of(source: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("lambda_function.py", source)
    return archive.getvalue()


def warm_milliseconds() -> list[float]:
    """The times of single invocations of a warm function, through boto3 and HTTP, in ascending order."""
    aws = local_aws.start()
    try:
        client = boto3.client("lambda")
        client.create_function(
            FunctionName="plain",
            Runtime="python3.12",
            Handler="lambda_function.lambda_handler",
            Role=aws.environment["SAGEMAKER_ROLE"],
            Code={"ZipFile": zip_of(PLAIN)},
        )
        client.invoke(FunctionName="plain")
        return sorted(milliseconds(lambda: client.invoke(FunctionName="plain")) for _ in range(WARM_INVOCATIONS))
    finally:
        aws.stop()


def milliseconds(call) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


class Bench:
    """Starts workers without a server around them, in one of the two ways."""

    def __init__(self, starter_of, folder: Path):
        self.folder = folder
        self.starter = starter_of(folder)
        self.task_roots = TaskRoots(folder / "task-roots")
        self.ready_worker(PLAIN).close()

    def ready_worker(self, source: str) -> Worker:
        root = str(self.task_roots.unpack(zip_of(source)))
        environment = {"LAMBDA_TASK_ROOT": root, "AWS_DEFAULT_REGION": "us-east-1"}
        worker = Worker(self.starter, function_version(), environment, "stream", self.folder)
        answer = worker.initialise(60)
        assert answer.kind == "ready", answer
        return worker

    def cold_start_milliseconds(self, source: str) -> float:
        """The median from nothing to a worker that has imported its function."""
        times = []
        for _ in range(COLD_STARTS):
            workers: list[Worker] = []
            times.append(milliseconds(lambda found=workers: found.append(self.ready_worker(source))))
            workers[0].close()
        return statistics.median(times)

    def megabytes(self, source: str) -> float:
        """What one of four workers adds: its proportional share where the system tells, else its resident set."""
        workers = [self.ready_worker(source) for _ in range(4)]
        details = [psutil.Process(worker.pid).memory_full_info() for worker in workers]
        for worker in workers:
            worker.close()
        return statistics.mean(getattr(detail, "pss", detail.rss) for detail in details) / (1 << 20)


def function_version() -> FunctionVersion:
    return FunctionVersion(
        arn="arn:aws:lambda:us-east-1:123456789012:function:bench",
        name="bench",
        version="$LATEST",
        region="us-east-1",
        role="",
        runtime="python3.12",
        handler="lambda_function.lambda_handler",
        timeout=60,
        memory_size=128,
        environment=(),
        code_sha256="",
        last_modified="",
        reserved_concurrency=None,
        code=b"",
    )


def main() -> None:
    rows = []
    for name, starter_of in (("this system's", new_starter), ("new interpreters", Starter)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(starter_of, Path(folder))
            rows += [
                (f"cold start, plain handler, {name}", f"{bench.cold_start_milliseconds(PLAIN):.0f} ms"),
                (f"cold start, with an S3 client, {name}", f"{bench.cold_start_milliseconds(WITH_BOTO3):.0f} ms"),
                (f"memory a worker, plain handler, {name}", f"{bench.megabytes(PLAIN):.0f} MB"),
                (f"memory a worker, with an S3 client, {name}", f"{bench.megabytes(WITH_BOTO3):.0f} MB"),
            ]
            bench.starter.close()
    warm = warm_milliseconds()
    rows.append(("warm invoke through boto3, median", f"{statistics.median(warm):.2f} ms"))
    rows.append(("warm invoke through boto3, 99th percentile", f"{warm[len(warm) * 99 // 100]:.2f} ms"))
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"{WARM_INVOCATIONS} warm invocations, {COLD_STARTS} cold starts each\n")
    for label, value in rows:
        print(f"{label:58} {value:>10}")


if __name__ == "__main__":
    main()
