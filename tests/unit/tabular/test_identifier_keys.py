from lineal.api.ingest.v1.dataset_pb2 import Sensitivity
from tabular import definitions
from tests.unit.tabular.declarations import ends, feature_set, trips, view


def test_features_are_not_looked_up_by_an_identifier() -> None:
    hidden = ends()
    hidden.fields[1].sensitivity = Sensitivity.SENSITIVITY_DIRECT_IDENTIFIER
    assert [v.field for v in definitions.view_violations(view(), hidden)] == ["entity_keys[0]"]
    spine = trips()
    spine.fields[1].sensitivity = Sensitivity.SENSITIVITY_DIRECT_IDENTIFIER
    found = definitions.set_violations(feature_set(), {"trips": spine, "ends": ends()}, {"driver-delays": view()})
    assert [v.field for v in found] == ["view_features[0].keys"]
