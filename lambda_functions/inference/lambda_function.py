"""ImageDataInference: asks the endpoint for the image's class probabilities."""

import base64
import json
import os

import boto3

ENDPOINT_NAME = os.environ.get("ENDPOINT_NAME", "scones-unlimited-classifier")
runtime = boto3.client("sagemaker-runtime")


def lambda_handler(event, context):
    body = event.get("body", event)
    image = json.loads(body) if isinstance(body, str) else body
    answer = runtime.invoke_endpoint(
        EndpointName=ENDPOINT_NAME, ContentType="image/png", Body=base64.b64decode(image["image_data"])
    )
    return {"statusCode": 200, "body": {**image, "inferences": json.loads(answer["Body"].read())}}
