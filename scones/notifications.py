"""Tells someone when an execution fails: an EventBridge rule on the state machines, and an SNS topic."""

import json

from boto3 import Session

NAME = "scones-failed-executions"
UNHAPPY = ["FAILED", "TIMED_OUT", "ABORTED"]


def notify_failures(session: Session, state_machine_arns: list[str], tags: dict[str, str], email: str = "") -> str:
    """Sends a message to an SNS topic for each execution of these machines that does not succeed; returns its ARN.

    An e-mail address is sent a link first, and nothing else until its owner has followed it. Called again, it changes
    nothing that is as it should be. A message is the event that Step Functions sends, as JSON.
    """
    tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
    sns, events = session.client("sns"), session.client("events")
    topic = sns.create_topic(Name=NAME, Tags=tag_list)["TopicArn"]
    pattern = {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"status": UNHAPPY, "stateMachineArn": state_machine_arns},
    }
    rule = events.put_rule(Name=NAME, EventPattern=json.dumps(pattern), Tags=tag_list)["RuleArn"]
    sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=_policy(topic, rule))
    events.put_targets(Rule=NAME, Targets=[{"Id": "topic", "Arn": topic}])
    if email:
        sns.subscribe(TopicArn=topic, Protocol="email", Endpoint=email)
    return topic


def _policy(topic: str, rule: str) -> str:
    """Lets EventBridge publish to the topic for this rule and for no other."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": topic,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
