"""JSON templates in a state's fields: JSONata strings {% ... %} or, in JSONPath, fields whose names end in .$"""

import functools
import json

from moto.stepfunctions.parser.asl.component.eval_component import EvalComponent
from moto.stepfunctions.parser.asl.eval.environment import Environment

from local_aws.workflows import jsonata
from local_aws.workflows.failures import query_failed
from local_aws.workflows.grammar import parse_machine


def is_expression(value) -> bool:
    return isinstance(value, str) and value.startswith("{%") and value.endswith("%}")


def evaluate(env: Environment, template, language: str):
    """The template's value for the state whose environment this is. Raises FailureEventException."""
    if language == "JSONata":
        return _evaluate_jsonata_template(env, template)
    env.stack.append(env.states._states_data["input"])
    _payload_template(json.dumps({"value": template})).eval(env)
    value = env.stack.pop()["value"]
    env.stack.pop()
    return value


def evaluate_path(env: Environment, path: str):
    """The value of a JSONPath of the state's input ($.) or of the context object ($$.)."""
    return evaluate(env, {"value.$": path}, "JSONPath")["value"]


def evaluate_expression(env: Environment, expression: str):
    """The value of a JSONata expression, given without its {% %}. Raises FailureEventException."""
    try:
        return jsonata.evaluate(expression, _variables(env))
    except jsonata.EvaluationFailed as error:
        raise query_failed(env, str(error)) from error


def _evaluate_jsonata_template(env: Environment, template):
    if isinstance(template, dict):
        return {name: _evaluate_jsonata_template(env, value) for name, value in template.items()}
    if isinstance(template, list):
        return [_evaluate_jsonata_template(env, value) for value in template]
    if is_expression(template):
        return evaluate_expression(env, template[2:-2].strip())
    return template


def _variables(env: Environment) -> dict:
    store, states = env.variable_store, env.states._states_data
    known = {name: value for name, value in states.items() if not (name == "errorOutput" and value is None)}
    return {**store._outer_scope, **store._inner_scope, "states": known}


@functools.lru_cache(maxsize=256)
def _payload_template(text: str) -> EvalComponent:
    """moto's component for a JSONPath template: the Parameters of a Pass state."""
    state = {"Type": "Pass", "Parameters": json.loads(text), "End": True}
    program = parse_machine({"StartAt": "Template", "States": {"Template": state}})
    return program.states.states["Template"].parameters
