import grpc
import grpc.aio
import pytest

from chassis.context import deadline_in
from chassis.errors import InvalidArgument, Overloaded
from lineal.api.registry.v1.endpoint_pb2 import Fallback
from services.serving.arms import EndpointSuspended, EndpointUnknown, HistoryUnread, NoChampion
from services.serving.fallback import cause_of
from services.serving.loader import BundleUnloadable
from services.serving.recorder import CannotRecord


def failed(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (NoChampion("none"), "no_bundle"),
        (BundleUnloadable("damaged"), "no_bundle"),
        (failed(grpc.StatusCode.UNAVAILABLE), "features"),
        (failed(grpc.StatusCode.RESOURCE_EXHAUSTED), "features"),
        (failed(grpc.StatusCode.INVALID_ARGUMENT), ""),
        (ZeroDivisionError(), "scoring"),
        (InvalidArgument("wrong"), ""),
        (EndpointUnknown("never declared"), ""),
        (HistoryUnread("starting"), ""),
        (CannotRecord("full"), ""),
        (Overloaded("too much"), ""),
    ],
)
def test_a_fallback_answers_what_no_caller_can_mend(error: Exception, cause: str) -> None:
    assert cause_of(error, Fallback(reason="safe")) == cause


@pytest.mark.parametrize(("declared", "cause"), [(True, "suspended"), (False, "")])
def test_a_suspended_endpoint_has_a_fallback_where_that_is_declared(declared: bool, cause: str) -> None:
    assert cause_of(EndpointSuspended("stopped"), Fallback(reason="safe", when_suspended=declared)) == cause


def test_what_the_deadline_cut_off_has_no_fallback() -> None:
    with deadline_in(0.0):
        assert cause_of(failed(grpc.StatusCode.DEADLINE_EXCEEDED), Fallback(reason="safe")) == ""
