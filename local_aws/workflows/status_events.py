"""The events that Step Functions sends to EventBridge's default bus when the status of an execution changes.

They are sent from a thread of their own, off the executions' path, to SQS queues and SNS topics, and to the targets
that moto knows (log groups, archives, other buses). EventBridge has more kinds of targets, tries again for a day, and
has dead-letter queues.
"""

import copy
import json
import queue
import threading
import uuid

from moto.events.utils import EventTemplateParser

from local_aws import records
from local_aws.workflows.execution import Execution, iso_date

MAX_DATA_BYTES = 248 << 10  # of input and output together; the service leaves out what is larger


class StatusEvents:
    def __init__(self, server):
        self._server = server
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._send_all, name="status events", daemon=True).start()

    def send(self, execution: Execution) -> None:
        """Sends the event for the status that the execution has now, if there is a rule that could receive it."""
        if records.event_rules(execution.region):
            self._waiting.put(_event(execution))

    def _send_all(self) -> None:
        while True:
            event = self._waiting.get()
            for rule in records.event_rules(event["region"]):
                if rule.event_pattern.matches_event(event):
                    self._deliver(rule, event)

    def _deliver(self, rule, event: dict) -> None:
        for target in rule.targets:
            service = target["Arn"].split(":")[2]
            try:
                if service == "sqs":
                    self._send_to_queue(target, _body(target, event))
                elif service == "sns":
                    self._server.client("sns").publish(TopicArn=target["Arn"], Message=_body(target, event))
                else:
                    of_one_target = copy.copy(rule)
                    of_one_target.targets = [target]
                    of_one_target.send_to_targets(copy.deepcopy(event))
            except Exception:
                continue  # a target that is gone or not known must not keep the others from their events

    def _send_to_queue(self, target: dict, body: str) -> None:
        sqs = self._server.client("sqs")
        url = sqs.get_queue_url(QueueName=target["Arn"].rsplit(":", 1)[-1])["QueueUrl"]
        group = target.get("SqsParameters", {})
        sqs.send_message(QueueUrl=url, MessageBody=body, **group)


def _body(target: dict, event: dict) -> str:
    if "Input" in target:
        return target["Input"]
    event = {**event, "time": iso_date(event["time"])[:19] + "Z"}
    if "InputTransformer" in target:
        transformer = target["InputTransformer"]
        return json.dumps(
            EventTemplateParser.parse(transformer["InputTemplate"], transformer.get("InputPathsMap", {}), event)
        )
    return json.dumps(event)


def _event(execution: Execution) -> dict:
    content, stop = execution.content(), execution.stop_date
    kept = len((content["input"] or "") + (content["output"] or "")) <= MAX_DATA_BYTES
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Step Functions Execution Status Change",
        "source": "aws.states",
        "account": execution.account,
        "time": stop or execution.start_date,
        "region": execution.region,
        "resources": [execution.arn],
        "detail": {
            "executionArn": execution.arn,
            "stateMachineArn": execution.machine.arn,
            "stateMachineVersionArn": execution.machine.version_arn,
            "stateMachineAliasArn": execution.machine.alias_arn,
            "name": execution.name,
            "status": execution.status,
            "startDate": int(execution.start_date * 1000),
            "stopDate": int(stop * 1000) if stop else None,
            "redriveCount": 0,
            "redriveDate": None,
            "redriveStatus": "NOT_REDRIVABLE",
            "error": execution.error,
            "cause": execution.cause,
            "input": content["input"] if kept else None,
            "inputDetails": {"included": kept},
            "output": content["output"] if kept else None,
            "outputDetails": {"included": kept} if content["output"] is not None else None,
        },
    }
