from pathlib import Path

from lineal.api.monitor.v1.monitor_service_pb2 import RecordPredictionsRequest
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord, RequestRecord
from lineal.api.serving.v1.serving_service_pb2 import PredictResponse
from lineal.api.tabular.v1.flags_pb2 import GuardState, RowFlags
from services.serving.recorder import Recorder, Send
from services.serving.spool import Spool


async def _nowhere(batch: RecordPredictionsRequest) -> int:
    raise ConnectionError("monitor is away")


async def _before(batch: RecordPredictionsRequest) -> int:
    """Take what a monitor takes that knows no records of whole requests."""
    return len(batch.predictions)


async def _everything(batch: RecordPredictionsRequest) -> int:
    return len(batch.predictions) + sum(len(each.scores) for each in batch.request_records)


def recorder(folder: Path, send: Send = _nowhere) -> Recorder:
    return Recorder("replica", Spool(folder, max_bytes=1 << 20), send)


def counted(made: Recorder) -> tuple[int, int, int]:
    (found,) = made.counters()
    return found.served, found.logged, found.queued


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
    whole = RequestRecord(
        request_id="0" * 8,
        common=PredictionRecord(endpoint="shop", arm="champion", guard=answer.guard),
        scores=answer.scores,
        decisions=answer.decisions,
        flags=[flags],
    )
    recorder(tmp_path).record("shop", [RecordPredictionsRequest(request_records=[whole])], answer, strict=True)
    assert recorder(tmp_path).answered("0" * 8) == answer


async def test_records_stay_in_the_spool_while_monitor_does_not_know_them(tmp_path: Path) -> None:
    made = recorder(tmp_path, _before)
    whole = RequestRecord(common=PredictionRecord(endpoint="shop"), scores=[0.25, 0.5, 0.75])
    answer = PredictResponse(prediction_ids=["a/0", "a/1", "a/2"])
    made.record("shop", [RecordPredictionsRequest(request_records=[whole])], answer, strict=True)
    await made.drain()
    assert counted(made) == (3, 0, 3)
    made._send = _everything
    await made.drain()
    assert counted(made) == (3, 3, 0)


async def test_records_that_a_version_before_has_spooled_are_sent(tmp_path: Path) -> None:
    single = [PredictionRecord(prediction_id=f"a/{row}", endpoint="shop", score=row) for row in range(2)]
    spool = Spool(tmp_path)
    spool.append(RecordPredictionsRequest(predictions=single).SerializeToString())
    spool.close()
    taken: list[RecordPredictionsRequest] = []

    async def send(batch: RecordPredictionsRequest) -> int:
        taken.append(batch)
        return await _everything(batch)

    made = recorder(tmp_path, send)
    answer = made.answered("a")
    assert answer is not None
    assert list(answer.scores) == [0.0, 1.0]
    await made.drain()
    assert list(taken[0].predictions) == single
