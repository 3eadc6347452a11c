import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from chassis.context import Caller, acting_as
from chassis.errors import (
    AlreadyExists,
    ArtifactCorrupt,
    Conflict,
    FieldViolation,
    InvalidArgument,
    NotFound,
    Overloaded,
    RuleViolated,
    Unavailable,
)
from chassis.statuses import code_of, status_of


class BundleNotApproved(RuleViolated):
    """A subclass as services have them."""


def details(status: Status, kind: type) -> list[object]:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Is(message.DESCRIPTOR):
            detail.Unpack(message)
            found.append(message)
    return found


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (AlreadyExists("x"), grpc.StatusCode.ALREADY_EXISTS),
        (RuleViolated("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (ArtifactCorrupt("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (Conflict("x"), grpc.StatusCode.ABORTED),
        (Unavailable("x"), grpc.StatusCode.UNAVAILABLE),
        (Overloaded("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (KeyError("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_each_category_has_its_code(error: Exception, code: grpc.StatusCode) -> None:
    assert code_of(error) is code
    assert status_of(error).code == code.value[0]


def test_the_reason_is_the_name_of_the_class() -> None:
    error = BundleNotApproved("bundle b is not approved; approve it first")
    assert error.reason == "BUNDLE_NOT_APPROVED"
    status = status_of(error)
    [info] = details(status, ErrorInfo)
    assert (info.reason, info.domain) == ("BUNDLE_NOT_APPROVED", "lineal")  # type: ignore[attr-defined]
    assert status.message == "bundle b is not approved; approve it first"


def test_field_violations_are_shown() -> None:
    status = status_of(InvalidArgument("bad", [FieldViolation("dataset.name", "must not be empty")]))
    [bad] = details(status, BadRequest)
    [violation] = bad.field_violations  # type: ignore[attr-defined]
    assert (violation.field, violation.description) == ("dataset.name", "must not be empty")


def test_an_unknown_error_shows_a_correlation_id_and_nothing_else() -> None:
    with acting_as(Caller("person:ada", "corr-1", "")):
        status = status_of(ValueError("the password is hunter2"))
    assert "hunter2" not in str(status)
    assert "corr-1" in status.message


def test_shedding_says_when_to_come_back() -> None:
    [info] = details(status_of(Overloaded("too much", retry_after=2.5)), RetryInfo)
    assert info.retry_delay.ToMilliseconds() == 2500  # type: ignore[attr-defined]
