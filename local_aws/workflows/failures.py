"""How a state fails in moto's interpreter: an exception that carries the error's name, its cause and its event."""

from moto.stepfunctions.parser.api import HistoryEventType
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEvent, FailureEventException
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails

QUERY_ERROR = "States.QueryEvaluationError"


class QueryFailed(FailureEventException):
    """An expression of a state has no usable value."""

    def get_evaluation_failed_event_details(self) -> dict:
        return self.failure_event.event_details["evaluationFailedEventDetails"]


def query_failed(env: Environment, cause: str) -> QueryFailed:
    """The exception for an expression that failed; its EvaluationFailed event is recorded here."""
    details = EventDetails(
        evaluationFailedEventDetails={"error": QUERY_ERROR, "cause": cause, "state": env.next_state_name}
    )
    env.event_manager.add_event(env.event_history_context, HistoryEventType.EvaluationFailed, details)
    return QueryFailed(FailureEvent(env, error_name(QUERY_ERROR), HistoryEventType.EvaluationFailed, details))


def state_failed(env: Environment, error: str, cause: str) -> FailureEventException:
    details = EventDetails(executionFailedEventDetails={"error": error, "cause": cause})
    return FailureEventException(FailureEvent(env, error_name(error), HistoryEventType.ExecutionFailed, details))


def map_run_failed(env: Environment, error: str, cause: str) -> FailureEventException:
    details = EventDetails(mapRunFailedEventDetails={"error": error, "cause": cause})
    return FailureEventException(FailureEvent(env, error_name(error), HistoryEventType.MapRunFailed, details))


def error_name(name: str):
    """moto's object for an error's name; it tells the names that the language reserves from all others."""
    try:
        return StatesErrorName(StatesErrorNameType.from_name(name))
    except ValueError:
        return CustomErrorName(name)
