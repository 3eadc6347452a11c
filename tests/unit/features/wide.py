"""A view with every operator, and transforms that features are computed from."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.text_format import Merge

from lineal.api.features.v1.feature_view_pb2 import Aggregate, AggregateFunction, FeatureView, Lag
from tests.unit.tabular.declarations import view

TRANSFORMED = """
transforms { name: "filled" impute { column: "delay" number: 5 flag: "unknown" } }
transforms { name: "hour" calendar { column: "told" part: CALENDAR_PART_MINUTE zone: "Asia/Tokyo" } }
transforms { name: "wait" difference { left: "told" right: "landed" } }
transforms { name: "share" ratio { numerator: "filled" denominator: "wait" } }
transforms { name: "both" cross { left: "weather" right: "driver" } }
features { name: "filled_mean"
  aggregate { function: AGGREGATE_FUNCTION_MEAN column: "filled" window { seconds: 80 } } }
features { name: "unknown_n"
  aggregate { function: AGGREGATE_FUNCTION_SUM column: "unknown" window { seconds: 80 } } }
features { name: "hour" latest { column: "hour" } }
features { name: "share_max"
  aggregate { function: AGGREGATE_FUNCTION_MAX column: "share" window { seconds: 80 } } }
features { name: "both" latest { column: "both" } }
"""


def wide_view() -> FeatureView:
    declared = view()
    for function in AggregateFunction.values()[1:]:
        feature = declared.features.add(name=f"f{function}")
        feature.aggregate.function = function
        feature.aggregate.column = "delay"
        feature.aggregate.window.seconds = 80
        feature.aggregate.threshold = 12.0
        if function == AggregateFunction.AGGREGATE_FUNCTION_RATE:
            feature.aggregate.per.seconds = 60
        if function == AggregateFunction.AGGREGATE_FUNCTION_SHARE_EQUALS:
            feature.aggregate.column, feature.aggregate.equals = "weather", "rain"
    for function in (AggregateFunction.AGGREGATE_FUNCTION_FIRST, AggregateFunction.AGGREGATE_FUNCTION_DISTINCT):
        aggregate = Aggregate(function=function, column="weather", window=Duration(seconds=60))
        declared.features.add(name=f"text_{function}", aggregate=aggregate)
    declared.features.add(name="latest").latest.column = "delay"
    declared.features.add(name="third", lag=Lag(column="weather", n=3))
    declared.features.add(name="idle").since_last.SetInParent()
    Merge(TRANSFORMED, declared)
    return declared
