"""What monitor decides on an endpoint: segments sealed, periods closed in order, parity checked, alarms raised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from chassis.aggregate import Decider
from lineal.api.monitor.v1.events_pb2 import AlarmRaised, ParityChecked, PeriodClosed, SegmentSealed
from lineal.api.monitor.v1.report_pb2 import Alarm, ParityCheck, Period


@dataclass(frozen=True)
class Monitored:
    """How far an endpoint has been examined: `closed_until_micros` is the end of the last closed period, 0 before.

    `parity_report` is the evidence of the last parity check, `differing` are the predictions that any has found.
    """

    closed_until_micros: int = 0
    segments: frozenset[str] = frozenset()
    parity_report: str = ""
    differing: frozenset[str] = frozenset()


def seal(state: Monitored, sealed: SegmentSealed) -> Sequence[Message]:
    """Seal a segment, once."""
    return [] if sealed.segment_digest in state.segments else [sealed]


def close(state: Monitored, period: Period, alarms: Sequence[Alarm]) -> Sequence[Message]:
    """Close a period with its alarms; a period that is closed already stays as it is."""
    if period.start_time.ToMicroseconds() < state.closed_until_micros:
        return []
    return [PeriodClosed(period=period), *(AlarmRaised(alarm=alarm) for alarm in alarms)]


def check_parity(state: Monitored, check: ParityCheck, alarm: Callable[[str], Alarm]) -> Sequence[Message]:
    """Record a parity check, unless the last one was of the same predictions with the same result.

    `alarm` makes the alarm of a prediction that differs; it is raised for the first that no check before has found.
    """
    if not check.predictions or check.report_digest == state.parity_report:
        return []
    new = next((name for name in check.differing_predictions if name not in state.differing), None)
    return [ParityChecked(check=check), *([] if new is None else [AlarmRaised(alarm=alarm(new))])]


def evolve(state: Monitored, event: Message) -> Monitored:
    """Apply one event."""
    match event:
        case SegmentSealed():
            return replace(state, segments=state.segments | {event.segment_digest})
        case PeriodClosed():
            return replace(state, closed_until_micros=event.period.end_time.ToMicroseconds())
        case ParityChecked():
            differing = state.differing.union(event.check.differing_predictions)
            return replace(state, parity_report=event.check.report_digest, differing=differing)
    return state


decider = Decider(Monitored(), evolve)


def due(closed_until: int, times: Sequence[int], watermark: int, length: int) -> list[tuple[int, int]]:
    """Return the periods [start, end) in microseconds that hold an event time, are open and lie before the watermark.

    Periods begin at whole multiples of their length since 1970-01-01 UTC.
    """
    starts = sorted({time // length * length for time in times})
    return [(start, start + length) for start in starts if start >= closed_until and start + length <= watermark]
