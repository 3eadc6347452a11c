"""What can go wrong between a client and Lineal.

LinealError
├── CallFailed     a service refused or could not answer; has code, reason and field violations
└── ProjectInvalid a project folder has mistakes; each names file, line and field
"""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]


class LinealError(Exception):
    """Base of the errors of this package."""


@dataclass(frozen=True)
class Violation:
    """One field that is wrong, and what to do."""

    field: str
    description: str


class CallFailed(LinealError):
    """A call to a service failed.

    `code` is the gRPC status, `reason` names the error for programs, `violations` the fields that are wrong.
    """

    def __init__(
        self,
        service: str,
        address: str,
        code: grpc.StatusCode,
        message: str,
        reason: str,
        violations: Sequence[Violation],
    ) -> None:
        details = "".join(f"\n  {violation.field}: {violation.description}" for violation in violations)
        super().__init__(f"{message}{details}")
        self.service = service
        self.address = address
        self.code = code
        self.reason = reason
        self.violations = tuple(violations)


@dataclass(frozen=True)
class Mistake:
    """One mistake in a project: `where` is file and line, `field` the path in the definition."""

    where: str
    field: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.what}" if self.field else f"{self.where}: {self.what}"


class ProjectInvalid(LinealError):
    """A project folder has mistakes."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


def call_failed(error: grpc.RpcError, service: str, address: str) -> CallFailed:
    """Make a CallFailed of gRPC's error, with the details that Lineal's services send."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        message = f"{service} at {address} did not answer in time ({message}); `lineal status` shows how it is"
    reason, violations = "", []
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            violations += [Violation(entry.field, entry.description) for entry in bad.field_violations]
    return CallFailed(service, address, code, message, reason, violations)
