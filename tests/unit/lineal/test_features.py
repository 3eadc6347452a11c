from datetime import timedelta
from pathlib import Path

from lineal import features
from lineal.openlineage_facets import _sources
from lineal.project import read_project

YAML = """
kind: FeatureView
name: card-payments
dataset: payments
entity_keys: [card]
transforms:
  - {name: hour, calendar: {column: paid, part: hour, zone: Europe/Berlin}}
  - {name: known_fee, impute: {column: fee, number: 0, flag: fee_unknown}}
  - {name: named, impute: {column: shop, text: none}}
  - {name: fee_share, ratio: {numerator: known_fee, denominator: amount}}
  - {name: less, difference: {left: amount, right: fee}}
  - {name: times, product: {left: amount, right: fee}}
  - {name: amount_bin, bins: {column: amount, edges: [10, 100]}}
  - {name: both, cross: {left: shop, right: channel}}
  - {name: length, text_length: shop}
  - {name: clipped, clip: {column: amount, maximum: 5}}
  - {name: scaled, scale: {column: amount, center: 1, width: 2}}
features:
  - {name: now, latest: {column: amount, max_age: 30d}}
  - {name: before, lag: {column: amount, n: 2}}
  - {name: idle, since_last: {}}
  - {name: n, aggregate: {function: count, window: 7d}}
  - {name: per_hour, aggregate: {function: rate, window: 24h, per: 1h}}
  - {name: online, aggregate: {function: share_equals, column: channel, equals: online, window: 7d}}
  - {name: large, aggregate: {function: share_above, column: amount, threshold: 500, window: 7d}}
"""

BUILT = features.view(
    "card-payments",
    "payments",
    ["card"],
    features.latest("now", "amount", max_age="30d"),
    features.lag("before", "amount", 2),
    features.since_last("idle"),
    features.window("n", "count", "7d"),
    features.window("per_hour", "rate", timedelta(days=1), per="1h"),
    features.window("online", "share_equals", "7d", column="channel", equals="online"),
    features.window("large", "share_above", "7d", column="amount", threshold=500),
    transforms=[
        features.calendar("hour", "paid", "hour", zone="Europe/Berlin"),
        features.impute("known_fee", "fee", 0, flag="fee_unknown"),
        features.impute("named", "shop", "none"),
        features.ratio("fee_share", "known_fee", "amount"),
        features.difference("less", "amount", "fee"),
        features.product("times", "amount", "fee"),
        features.bins("amount_bin", "amount", [10, 100]),
        features.cross("both", "shop", "channel"),
        features.text_length("length", "shop"),
        features.clip("clipped", "amount", maximum=5),
        features.scale("scaled", "amount", center=1, width=2),
    ],
)


def test_builders_make_the_message_that_yaml_makes(tmp_path: Path) -> None:
    (tmp_path / "view.yaml").write_text(YAML)
    assert read_project(tmp_path)[0].message == BUILT


def test_the_origin_of_a_column_goes_through_transforms() -> None:
    assert sorted(_sources(BUILT, "fee_share")) == ["amount", "fee"]
    assert _sources(BUILT, "fee_unknown") == ["fee"]
    assert _sources(BUILT, "amount") == ["amount"]
