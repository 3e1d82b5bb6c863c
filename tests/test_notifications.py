"""A failed execution reaches whoever listens to the topic; one that succeeds does not."""

import json
import time

import boto3
from sagemaker_jobs import ROLE

from scones import notifications

TAGS = {"run": "notifications"}


def machine(name: str, state: dict) -> str:
    definition = json.dumps({"StartAt": "Only", "States": {"Only": state}})
    created = boto3.client("stepfunctions").create_state_machine(name=name, definition=definition, roleArn=ROLE)
    return created["stateMachineArn"]


def messages(queue_url: str, seconds: float) -> list[dict]:
    """The events that reach the queue within so many seconds."""
    found, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = boto3.client("sqs").receive_message(QueueUrl=queue_url, WaitTimeSeconds=1, MaxNumberOfMessages=10)
        found += [json.loads(json.loads(message["Body"])["Message"]) for message in answer.get("Messages", [])]
        if found:
            break
    return found


def test_a_failed_execution_of_these_machines_is_told_and_no_other(local):
    fails = machine("notified-fails", {"Type": "Fail", "Error": "ThresholdNotMet", "Cause": "0.6 is below 0.9"})
    succeeds = machine("notified-succeeds", {"Type": "Succeed"})
    unwatched = machine("notified-unwatched", {"Type": "Fail"})
    session = boto3.Session()
    topic = notifications.notify_failures(session, [fails, succeeds], TAGS)
    sqs, states = boto3.client("sqs"), boto3.client("stepfunctions")
    queue = sqs.create_queue(QueueName="notified")["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    boto3.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn)

    for arn in (succeeds, unwatched, fails):
        states.start_execution(stateMachineArn=arn)
    [event] = messages(queue, 10)
    assert event["detail"]["stateMachineArn"] == fails
    assert event["detail"]["status"] == "FAILED"
    assert messages(queue, 2) == []


def test_switching_it_on_twice_makes_one_rule_and_one_topic(local):
    session = boto3.Session()
    arn = machine("notified-twice", {"Type": "Succeed"})
    assert notifications.notify_failures(session, [arn], TAGS) == notifications.notify_failures(session, [arn], TAGS)
    targets = boto3.client("events").list_targets_by_rule(Rule=notifications.NAME)["Targets"]
    assert len(targets) == 1


def test_the_topic_takes_messages_of_its_rule_alone(local):
    session = boto3.Session()
    topic = notifications.notify_failures(session, [machine("notified-policy", {"Type": "Succeed"})], TAGS)
    attributes = boto3.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]
    [statement] = json.loads(attributes["Policy"])["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Resource"] == topic
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"].endswith(f"rule/{notifications.NAME}")
