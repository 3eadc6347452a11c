"""What was once written to the log is read for ever as it was meant: one stored example per event type and version."""

import pytest
from google.protobuf.message import Message

from chassis.records import serialize, to_event
from lineal.api.lineage.v1.record_pb2 import EventRecord
from tests.golden.samples import Golden, as_json, decoded, event_types, goldens, newest, sample, unset

TYPES = event_types()


@pytest.mark.parametrize("golden", goldens(), ids=lambda golden: f"{golden.type}.v{golden.version}")
def test_a_stored_event_means_what_it_always_meant(golden: Golden) -> None:
    record = EventRecord.FromString(golden.record)
    assert as_json(record) == golden.envelope | {"payload": as_json(record)["payload"]}
    assert record.type == golden.type
    event = to_event(golden.record)
    assert event.message is not None
    assert as_json(event.message) == golden.event
    # Nothing of it is unknown to this version, and it would be stored as the same bytes again.
    assert serialize(event.message) == record.payload
    assert record.SerializeToString(deterministic=True) == golden.record


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_event_type_has_an_example_with_all_of_its_fields(name: str) -> None:
    golden = newest(name)
    remedy = "run `python -m tests.golden.write` and commit what it writes; files that are there stay as they are"
    assert golden is not None, f"{name} has no example: {remedy}"
    missing = set(unset(decoded(golden))) - set(unset(sample(TYPES[name])))
    assert not missing, f"the newest example of {name} lacks {sorted(missing)}: {remedy}"


def test_the_examples_of_a_type_are_numbered_from_one() -> None:
    versions: dict[str, list[int]] = {}
    for golden in goldens():
        versions.setdefault(golden.type, []).append(golden.version)
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
    assert set(versions) <= set(TYPES), "an event type that was ever in a log cannot go"


def test_a_field_that_an_example_lacks_is_found() -> None:
    kind: type[Message] = TYPES["lineal.api.registry.v1.EndpointRegistered"]
    event = sample(kind)
    assert unset(event) == []
    event.endpoint.release.ClearField("alpha")  # type: ignore[attr-defined]
    assert unset(event) == ["endpoint.release.alpha"]
