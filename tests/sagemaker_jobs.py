"""A small two-class problem for the built-in algorithm, and the calls that train and host it, as tests need them."""

import io
import time

import boto3
import numpy as np
from PIL import Image

IMAGE = "811284229777.dkr.ecr.us-east-1.amazonaws.com/image-classification:1"
ROLE = "arn:aws:iam::123456789012:role/LocalRole"
BUCKET = "sagemaker-us-east-1-123456789012"
TRAIN, VALIDATION = 24, 8
HYPERPARAMETERS = {"num_classes": "2", "num_training_samples": str(TRAIN), "image_shape": "3,28,28", "num_layers": "20"}


def png(label: int, seed: int, size: int = 32) -> bytes:
    """A noisy image: class 0 is bright at the top, class 1 at the bottom."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (size, size, 3))
    half = slice(0, size // 2) if label == 0 else slice(size // 2, size)
    pixels[half] += 120
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def upload_channels(prefix: str, train: int = TRAIN) -> list[dict]:
    """Puts the four channels below the prefix; returns the InputDataConfig that names them."""
    s3 = boto3.client("s3")
    for channel, count, offset in (("train", train, 0), ("validation", VALIDATION, 1000)):
        lines = []
        for number in range(count):
            name = f"{channel}_{number:03d}.png"
            s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{channel}/{name}", Body=png(number % 2, number + offset))
            lines.append(f"{number}\t{number % 2}\t{name}\n")
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{channel}_lst/{channel}.lst", Body="".join(lines).encode())
    return [
        {
            "ChannelName": channel,
            "ContentType": "application/x-image",
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": f"s3://{BUCKET}/{prefix}/{channel}/",
                    "S3DataDistributionType": "FullyReplicated",
                }
            },
        }
        for channel in ("train", "validation", "train_lst", "validation_lst")
    ]


def training_request(name: str, channels: list[dict], **changes) -> dict:
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "HyperParameters": HYPERPARAMETERS,
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models"},
        "ResourceConfig": {"InstanceType": "ml.g4dn.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        **changes,
    }


def until(condition, seconds: float = 60):
    """The first true value of condition(), asked for again and again; fails the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not so within {seconds} s")


def wait_for_training(name: str, seconds: float = 120) -> dict:
    client = boto3.client("sagemaker")

    def ended():
        job = client.describe_training_job(TrainingJobName=name)
        return job if job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return until(ended, seconds)


def wait_for_endpoint(name: str, status: str = "InService", seconds: float = 60) -> dict:
    client = boto3.client("sagemaker")

    def settled():
        endpoint = client.describe_endpoint(EndpointName=name)
        return endpoint if endpoint["EndpointStatus"] not in ("Creating", "Updating") else None

    endpoint = until(settled, seconds)
    assert endpoint["EndpointStatus"] == status, endpoint.get("FailureReason")
    return endpoint


def create_model(name: str, model_data: str) -> None:
    container = {"Image": IMAGE, "ModelDataUrl": model_data}
    boto3.client("sagemaker").create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)


def create_config(name: str, model: str, capture_to: str | None = None, **capture) -> None:
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": model,
        "InstanceType": "ml.m5.xlarge",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 1.0,
    }
    config = {"EndpointConfigName": name, "ProductionVariants": [variant]}
    if capture_to:
        config["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": capture_to,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
            **capture,
        }
    boto3.client("sagemaker").create_endpoint_config(**config)
