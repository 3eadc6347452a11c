"""Ingest against its goals: rows per second with validation on, memory, and that no bad row gets lost.

`python -m benchmarks.ingest [--quick]`. lineage and ingest are processes of their own on SQLite; a client in a third
one sends rows over gRPC as Arrow batches of 20,000 in one stream, each acknowledged when it is durable. Validation
checks ranges, a set, a pattern, a rule over two fields, missing values and the uniqueness of the row key. The rate is
from the first batch to the last acknowledgement, nothing warmed up; the client has made its batches before. Then comes
a stream of which every tenth row is bad in one of ten ways: the quarantine is listed through the RPC, and each row
compared with its one right reason.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.readings import FAULTS
from benchmarks.report import Report
from benchmarks.servers import Server, peak_memory, serving

_ROWS, _QUICK_ROWS = 1_000_000, 200_000
_RATE = 50_000
_MEBIBYTES = 1024


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    rows = _QUICK_ROWS if "--quick" in sys.argv[1:] else _ROWS
    report = Report()
    with tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with serving("services.lineage", folder / "lineage") as lineage:
            profile = folder / "profile.yaml"
            profile.write_text(f"lineage: {lineage.address}\n", encoding="utf-8")
            with serving("services.ingest", folder / "ingest", LINEAL_PROFILE=str(profile)) as server:
                _good(report, server, rows)
                _spoilt(report, server, rows)
    return report.code


def _good(report: Report, server: Server, rows: int) -> None:
    with peak_memory(server) as peak:
        found = _load("good", server, rows)
    report.at_least(f"{rows:,} rows, validated and durable", found["rate"], "rows/s", _RATE)
    report.note("the same, one batch", found["batch_bytes"] / 1024, "KiB")
    report.at_most("the same, memory of ingest", peak[0], "MiB", _MEBIBYTES)
    report.at_most("the same, rows not accepted", rows - found["accepted"], "", 0)


def _spoilt(report: Report, server: Server, rows: int) -> None:
    with peak_memory(server) as peak:
        found = _load("spoilt", server, rows)
    sent = f"{rows:,} rows, 10 % of them bad"
    report.note(f"{sent}, two columns as text", found["rate"], "rows/s")
    report.note("the same, listing the quarantine", found["listing_seconds"], "s")
    report.at_most("the same, memory of ingest", peak[0], "MiB", _MEBIBYTES)
    for fault in FAULTS:
        report.at_least(f"{fault.name}, share with the right reason", _share(found, fault.name), "", 1)
    report.at_most("bad rows with another reason, or with one more", found["wrong"], "", 0)
    report.at_most("bad rows that quarantine does not have", found["missing"], "", 0)
    report.at_most("good rows in quarantine, or rows twice", found["unexpected"], "", 0)
    report.at_most("rows lost by the answers", abs(rows - found["accepted"] - found["quarantined"]), "", 0)
    report.at_most(
        "rows lost by the read tables", abs(rows - found["known_accepted"] - found["known_quarantined"]), "", 0
    )
    if found["example"]:
        print(found["example"])


def _share(found: dict[str, Any], name: str) -> float:
    return float(found["right"].get(name, 0) / found["bad"][name])


def _load(kind: str, server: Server, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.ingest_load", kind, server.address, f"readings-{kind}", str(rows)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
