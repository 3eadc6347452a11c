"""The six categories of errors that a caller may see.

LinealError
├── InvalidArgument   the request can never be right; field violations attached
├── NotFound          no such thing
├── AlreadyExists     create on an existing id with other content
├── RuleViolated      right request, wrong state
│   └── ArtifactCorrupt
├── Conflict          lost a race; read again
└── Unavailable       a dependency is down
    ├── Overloaded    work is shed; come back after `retry_after`
    └── DeadlinePassed nobody waits for the answer any more

Services raise subclasses that state what is wrong; `chassis.statuses` maps them to gRPC statuses, once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that is wrong.

    `field` is the path in the request, `description` says what is wrong and what to do.
    """

    field: str
    description: str


class LinealError(Exception):
    """Base of all errors that are shown to callers: say what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def reason(self) -> str:
        """Return the machine-readable reason, the class name in UPPER_SNAKE."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).upper()


class InvalidArgument(LinealError):
    """The request can never be right."""

    def __init__(self, message: str, violations: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class NotFound(LinealError):
    """There is no such thing."""


class AlreadyExists(LinealError):
    """A thing of that id exists with other content."""


class RuleViolated(LinealError):
    """The request is right, but not in this state."""


class Conflict(LinealError):
    """Another writer was faster; read again."""


class Unavailable(LinealError):
    """A dependency is down; the same request may succeed later."""


class Overloaded(Unavailable):
    """Work is refused because there is too much of it; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlinePassed(Unavailable):
    """The deadline of a call has passed before its work was done."""


class ArtifactCorrupt(RuleViolated):
    """The bytes of an artifact are not those that its digest names."""
