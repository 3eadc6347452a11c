"""The event that seals a segment."""

from lineal.api.monitor.v1.prediction_pb2 import FeatureLookup, PredictionRecord
from services.monitor.segments import Segment
from tabular.bundle import Bundle


def record(bundle: str, position: int) -> bytes:
    return PredictionRecord(
        bundle_digest=bundle, feature_position=position, event_time_micros=position
    ).SerializeToString()


def test_what_was_looked_up_is_told_by_feature_set() -> None:
    segment = Segment([record("a", 9), record("b", 3), record("a", 5), record("c", 0), record("gone", 7)], [])
    bundles = {
        name: Bundle("m", "binary", (), {}, feature_set="s", feature_set_version=version)
        for name, version in (("a", "1"), ("b", "2"), ("c", "3"))
    }
    event = segment.sealed("e", "digest", bundles)
    assert list(event.bundle_digests) == ["a", "b", "c", "gone"]
    assert list(event.lookups) == [
        FeatureLookup(predictions=1, min_position=7, max_position=7),
        FeatureLookup(feature_set="s", feature_set_version="1", predictions=2, min_position=5, max_position=9),
        FeatureLookup(feature_set="s", feature_set_version="2", predictions=1, min_position=3, max_position=3),
    ]
    assert (event.leaves, event.predictions, event.merkle_root) == (5, 5, segment.merkle_root)
    assert (event.min_event_time.ToMicroseconds(), event.max_event_time.ToMicroseconds()) == (0, 9)


def test_a_fallback_answers_without_a_bundle() -> None:
    segment = Segment([record("", 0), record("a", 0)], [])
    assert segment.bundle_digests == ["a"]
    event = segment.sealed("e", "digest", {})
    assert (list(event.bundle_digests), event.predictions) == (["a"], 2)
    assert Segment([record("", 0)], []).bundle_digests == []
