from pathlib import Path

from lineal.api.monitor.v1.monitor_service_pb2 import RecordPredictionsRequest
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.serving.v1.serving_service_pb2 import PredictResponse
from lineal.api.tabular.v1.flags_pb2 import GuardState, RowFlags
from services.serving.recorder import Recorder
from services.serving.spool import Spool


async def _nowhere(batch: RecordPredictionsRequest) -> None:
    raise ConnectionError("monitor is away")


def recorder(folder: Path) -> Recorder:
    return Recorder("replica", Spool(folder, max_bytes=1 << 20), _nowhere)


async def test_an_answer_is_restored_with_its_flags_after_a_restart(tmp_path: Path) -> None:
    ids = [f"{'0' * 8}/{row}" for row in range(3)]
    flags = RowFlags(row=1, unseen=["shop"], rarity=9.5, out_of_distribution=True)
    answer = PredictResponse(
        request_id="0" * 8,
        prediction_ids=ids,
        scores=[0.25, 0.5, 0.75],
        decisions=[0, 1, 1],
        arm="champion",
        guard=GuardState.GUARD_STATE_CHECKED,
        flags=[flags],
    )
    records = [
        PredictionRecord(
            prediction_id=prediction_id,
            endpoint="shop",
            arm="champion",
            score=answer.scores[row],
            decision=answer.decisions[row],
            guard=answer.guard,
            flags=flags if row == 1 else None,
        )
        for row, prediction_id in enumerate(ids)
    ]
    recorder(tmp_path).record(records, answer, strict=True)
    assert recorder(tmp_path).answered("0" * 8) == answer
