"""What ends a job or a call with one sentence for its user."""


class JobFailed(Exception):
    """The job cannot be done; the message says what to mend. It becomes the job's FailureReason."""


class RequestRefused(Exception):
    """The request cannot be answered; status is the HTTP status of the answer."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
