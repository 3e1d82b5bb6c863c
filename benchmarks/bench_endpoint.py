"""Latency and throughput of a local endpoint, with and without data capture, beside its model in a loop.

    python benchmarks/bench_endpoint.py [--json FILE] [--seconds 4]

The model is the notebook's: trained on CIFAR-100's bicycles and motorcycles, on drawn ones where there is no archive
and no network. Every figure is of that many clients calling one after another for so many seconds. The model in a loop
is what one call cannot be faster than: decoding the image and asking the model, in this process. The model server is
the endpoint's own process asked over HTTP, without boto3 and the local AWS between. The clients are threads of this
process, which shares the machine with what it measures.
"""

import statistics
import sys
import tempfile
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
from figures import Row, figure, finish, parser
from sagemaker_jobs import BUCKET, create_config, create_model, wait_for_endpoint

import local_aws
from local_aws.image_classification.features import SHIPPED, Backbone
from local_aws.image_classification.model import Model, fit_models, load_model
from local_aws.image_classification.pictures import read_picture
from local_aws.image_classification.server_key import KEY_HEADER, KEY_VARIABLE
from local_aws.s3_files import upload_folder_as_archive
from scones.data import get_cifar100, write_images

CLIENTS = (1, 8, 32)
KEY = "bench/model.tar.gz"


def trained_model(folder: Path) -> tuple[Model, bytes]:
    """The notebook's model, put to S3 as well, and one of the images that it is asked about."""
    dataset = get_cifar100(allow_drawn=True)
    *_, model = fit_models(Backbone(SHIPPED), dataset.train.pixels, dataset.train.labels, len(dataset.classes))
    (folder / "model").mkdir()
    model.save(folder / "model")
    upload_folder_as_archive(boto3.client("s3"), folder / "model", BUCKET, KEY)
    images = write_images(dataset, folder / "images")
    return load_model(folder / "model"), Path(images["path"].iloc[-1]).read_bytes()


def start_endpoint(name: str, capture_to: str | None) -> None:
    create_config(name, "bench", capture_to)
    boto3.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)
    wait_for_endpoint(name)


def measure(way: str, call: Callable[[], object], clients: int, seconds: float) -> list[Row]:
    """p50 and p99 of a call, and calls a second, of that many clients."""
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    def keep_calling():
        while (started := time.perf_counter()) < stop:
            call()
            latencies.append((time.perf_counter() - started) * 1000)

    threads = [threading.Thread(target=keep_calling) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuts = statistics.quantiles(latencies, n=100)
    name = f"{way}, {clients} client{'s' if clients > 1 else ''}"
    return [
        figure(f"{name}, p50", cuts[49], "ms", "lower"),
        figure(f"{name}, p99", cuts[98], "ms", "lower"),
        figure(f"{name}, throughput", len(latencies) / seconds, "calls/s", "higher"),
    ]


def model_server(server_pid: int) -> tuple[int, str]:
    """The port and the key of the one that runs."""
    process = next(child for child in psutil.Process(server_pid).children() if "serve" in child.cmdline())
    port = next(c.laddr.port for c in process.net_connections() if c.status == psutil.CONN_LISTEN)
    return port, process.environ()[KEY_VARIABLE]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=4)
    given = options.parse_args()

    aws = local_aws.start()
    with tempfile.TemporaryDirectory() as folder:
        model, image = trained_model(Path(folder))
    create_model("bench", f"s3://{BUCKET}/{KEY}")
    start_endpoint("plain", None)
    port, key = model_server(aws.pid)
    start_endpoint("captured", f"s3://{BUCKET}/captures")

    runtime = boto3.client("sagemaker-runtime", config=Config(max_pool_connections=max(CLIENTS)))
    bare = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=max(CLIENTS))
    headers = {"Content-Type": "image/png", KEY_HEADER: key}
    ways = {
        "model server": lambda: bare.request("POST", "/invocations", body=image, headers=headers),
        "endpoint": lambda: invoke(runtime, "plain", image),
        "endpoint with capture": lambda: invoke(runtime, "captured", image),
    }
    rows = measure("model in a loop", lambda: model.predict(read_picture(image)[None]), 1, given.seconds)
    for way, call in ways.items():
        for clients in CLIENTS:
            rows += measure(way, call, clients, given.seconds)
    aws.stop()
    finish(rows, given.json)


def invoke(runtime, name: str, image: bytes) -> bytes:
    answer = runtime.invoke_endpoint(EndpointName=name, Body=image, ContentType="image/png")
    return answer["Body"].read()


if __name__ == "__main__":
    main()
