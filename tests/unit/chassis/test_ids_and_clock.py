import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest

from chassis.clock import FixedClock, SystemClock
from chassis.errors import InvalidArgument
from chassis.ids import check_request_id, event_id, new_request_id, request_id_from


def test_event_ids_follow_from_the_request_id() -> None:
    request_id = new_request_id()
    assert event_id(request_id, 1) == str(uuid.uuid5(uuid.UUID(request_id), "1"))
    assert event_id(request_id, 1) != event_id(request_id, 2)


def test_a_request_id_from_parts_keeps_the_parts_apart() -> None:
    assert request_id_from("ab", "c") == request_id_from("ab", "c")
    assert request_id_from("ab", "c") != request_id_from("a", "bc")


def test_a_request_id_comes_in_one_form() -> None:
    assert check_request_id("6F1B5C0E-0000-4000-8000-000000000001") == "6f1b5c0e-0000-4000-8000-000000000001"
    with pytest.raises(InvalidArgument) as raised:
        check_request_id("no uuid")
    assert raised.value.violations[0].field == "request_id"


def test_the_clocks_speak_utc() -> None:
    assert SystemClock().now().tzinfo is UTC
    clock = FixedClock(datetime(2013, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    clock.advance(timedelta(seconds=5))
    assert clock.now() == datetime(2013, 1, 1, 0, 0, 5, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone"):
        FixedClock(datetime(2013, 1, 1))  # noqa: DTZ001
