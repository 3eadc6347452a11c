"""Clients on several connections, in a process of their own; prints how many were answered, and how soon, as JSON.

`python -m benchmarks.serving_scaling_load ADDRESS MODELS KIND CONNECTIONS CLIENTS SECONDS`: one row a request, through
the Open Inference Protocol; each connection has so many clients. All answers are counted, also those of the warm-up.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from benchmarks.closed_loop import ClosedLoop
from benchmarks.serving_flights import rows
from benchmarks.serving_load import INFER, infer_request
from benchmarks.wire import Connection


def measured(address: str, models: Path, kind: str, connections: int, clients: int, seconds: float) -> dict[str, float]:
    """Run clients as a process of their own; return what it prints."""
    arguments = [address, str(models), kind, str(connections), str(clients), str(seconds)]
    command = [sys.executable, "-m", "benchmarks.serving_scaling_load", *arguments]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def _bodies(models: Path, kind: str) -> list[bytes]:
    asked = rows(models, kind)
    times = asked.pop("event_time") if "event_time" in asked else None
    bodies = []
    for number in range(len(asked)):
        request = infer_request(kind, asked.iloc[[number]], f"unit-{number}")
        if times is not None:
            request.parameters["event_time"].string_param = times[number]
        bodies.append(request.SerializeToString())
    return bodies


def _ask(address: str, bodies: Sequence[bytes], clients: int, seconds: float) -> dict[str, float]:
    loop = ClosedLoop(bodies, clients, seconds)
    answers = 0

    def answered(number: int, message: bytes) -> None:
        nonlocal answers
        answers += 1
        loop.answered(number, message)

    with closing(Connection(address, INFER, {}, answered)) as connection:
        found = loop.run(connection.call, connection.run)
    return found | {"answers": answers}


def _main(address: str, models: str, kind: str, connections: str, clients: str, seconds: str) -> dict[str, float]:
    bodies = _bodies(Path(models), kind)
    many = int(connections)
    # Each begins elsewhere, so that they do not ask for the same at once.
    turned = [bodies[start:] + bodies[:start] for start in range(0, len(bodies), -(-len(bodies) // many))]
    with ThreadPoolExecutor(many) as pool:
        found = list(pool.map(lambda some: _ask(address, some, int(clients), float(seconds)), turned))
    sums = {name: sum(each[name] for each in found) for name in ("rate", "answers")}
    return sums | {name: statistics.median(each[name] for each in found) for name in ("p50", "p99")}


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
