from opentelemetry.trace import SpanContext, TraceFlags

from chassis.call_metrics import call_metrics
from chassis.durations import CallDurations
from chassis.metrics_page import counter, gauge, render
from lineal.api.inference.v2 import inference_service_pb2
from tests.integration.exposition import read

SPAN = SpanContext(7, 9, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
ODD = 'a "b"\\c\nd'


def test_a_page_in_both_formats() -> None:
    families = [
        counter("rows", "Rows.", [({"endpoint": ODD}, 3.0)]),
        gauge("position", "Position.", [({}, 7.5)]),
        gauge("nothing", "Nothing.", []),
    ]
    assert render(families, open_metrics=False).splitlines() == [
        "# HELP rows_total Rows.",
        "# TYPE rows_total counter",
        'rows_total{endpoint="a \\"b\\"\\\\c\\nd"} 3.0',
        "# HELP position Position.",
        "# TYPE position gauge",
        "position 7.5",
    ]
    assert render(families, open_metrics=True).splitlines()[:2] == ["# HELP rows Rows.", "# TYPE rows counter"]
    for open_metrics in (False, True):
        page = read(render(families, open_metrics=open_metrics), open_metrics=open_metrics)
        assert page.value("rows_total", endpoint=ODD) == 3


def test_calls_have_their_kind_their_buckets_and_the_trace_of_each_bucket() -> None:
    durations = CallDurations("rpc.server.call.duration", "How long.")
    for seconds, code, span in ((0.005, "OK", SPAN), (0.3, "OK", None), (11.0, "ABORTED", SPAN)):
        durations.record(seconds, f"{INFERENCE}/ModelInfer", code, span)
    durations.record(0.1, "a.Stranger/Call", "UNIMPLEMENTED", None, "there:1")
    families = call_metrics("server", durations)
    page = read(render(families, open_metrics=True), open_metrics=True)
    infer = {"grpc_type": "UNARY", "grpc_service": INFERENCE, "grpc_method": "ModelInfer"}
    assert page.value("grpc_server_handled_total", **infer) == 3
    assert page.value("grpc_server_handled_total", grpc_code="ABORTED", **infer) == 1
    assert page.value("grpc_server_handling_seconds_sum", grpc_code="OK", **infer) == 0.305
    assert page.value("grpc_server_handling_seconds_bucket", grpc_code="OK", le="0.005", **infer) == 1
    assert page.value("grpc_server_handled_total", grpc_type="UNKNOWN", server_address="there:1") == 1
    traced = {dict(labels)["le"]: exemplar for (_, labels), exemplar in page.exemplars.items()}
    known = {"trace_id": f"{7:032x}", "span_id": f"{9:016x}"}
    assert traced == {"0.005": known, "+Inf": known}
    assert not read(render(families, open_metrics=False), open_metrics=False).exemplars
