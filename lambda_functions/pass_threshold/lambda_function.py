"""ImageDataPassThreshold: lets an image pass only if the model is sure enough of its class.

event and result's body: {"inferences": [0.97, 0.03], ...}
"""

import json
import os

THRESHOLD = float(os.environ.get("THRESHOLD", "0.9"))
if not 0 <= THRESHOLD <= 1:
    raise ValueError(f"The environment variable THRESHOLD must be within 0 and 1, it is {THRESHOLD}")


class InvalidEvent(Exception): ...


class ThresholdNotMet(Exception): ...


def lambda_handler(event, context):
    request = parsed(event.get("body", event) if isinstance(event, dict) else event)
    inferences = parsed(request.get("inferences")) if isinstance(request, dict) else None
    if not isinstance(inferences, list) or not inferences or not all(map(is_probability, inferences)):
        raise InvalidEvent("The event must be an object whose inferences are numbers within 0 and 1, at least one")
    confidence = max(inferences)
    if confidence < THRESHOLD:
        raise ThresholdNotMet(
            f"THRESHOLD_CONFIDENCE_NOT_MET: confidence {confidence} is below {THRESHOLD}: {inferences}"
        )
    return {"statusCode": 200, "body": {**request, "inferences": inferences}}


def parsed(value):
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"This is no JSON: {error}") from None


def is_probability(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
