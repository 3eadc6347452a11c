# mypy: disable-error-code="import-not-found"
"""Append with pyeventsourcing's recorder for some seconds; print events per second.

Runs in an environment of its own, so it imports nothing of this project.
Usage: eventsourcing_recorder.py postgres|sqlite DSN WRITERS EVENTS_PER_APPEND SECONDS
"""

import sys
import threading
import time
from uuid import uuid4

from eventsourcing.persistence import ApplicationRecorder, StoredEvent

PAYLOAD = b"x" * 100


def recorder(kind: str, dsn: str, writers: int) -> ApplicationRecorder:
    """Open the recorder in its safe mode: a lock on the table, no database functions."""
    if kind == "sqlite":
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

        opened = SQLiteApplicationRecorder(SQLiteDatastore(dsn))
    else:
        from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
        from psycopg.conninfo import conninfo_to_dict

        found = conninfo_to_dict(dsn)
        datastore = PostgresDatastore(
            dbname=found["dbname"], host=found["host"], port=found.get("port", "5432"), user=found["user"],
            password=found.get("password", ""), pool_size=writers, max_overflow=writers,
        )  # fmt: skip
        opened = PostgresApplicationRecorder(datastore, events_table_name="peer_events")
    opened.create_table()
    return opened


def main() -> None:
    """Run the writers and print the rate."""
    kind, dsn, writers, size, seconds = (*sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    store = recorder(kind, dsn, writers)
    counts = [0] * writers
    end = time.monotonic() + seconds

    def write(n: int) -> None:
        while time.monotonic() < end:
            stream = uuid4()
            store.insert_events([StoredEvent(stream, version, "t.A", PAYLOAD) for version in range(1, size + 1)])
            counts[n] += size

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(counts) / (time.monotonic() - start))


if __name__ == "__main__":
    main()
