from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Column, Float, Integer, LargeBinary, MetaData, Table, Text, delete, insert, select, update

from chassis.artifacts import canonical_json
from chassis.canonical import table_digest
from chassis.databases import UtcDateTime, open_database

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("name", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("share", Float),
    Column("data", LargeBinary),
    Column("happened", UtcDateTime),
)
ROWS = [
    {"name": "ä", "number": 1, "share": 0.1, "data": b"\x00", "happened": datetime(2013, 1, 1, tzinfo=UTC)},
    {"name": "B", "number": 2, "share": None, "data": None, "happened": None},
    {"name": "a", "number": 10, "share": 1e300, "data": b"", "happened": None},
    {"name": "a", "number": 9, "share": -0.0, "data": b"x", "happened": None},
]


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "ä"}) == '{"a":"ä","b":[1,2.5,null]}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_the_digest_follows_the_rows_and_not_their_order(tmp_path: Path) -> None:
    digests = []
    for n, rows in enumerate([ROWS, ROWS[::-1]]):
        database = open_database(f"sqlite:///{tmp_path / f'{n}.db'}")
        with database.writer.begin() as connection:
            metadata.create_all(connection)
            connection.execute(insert(things), rows)
        with database.reader.begin() as connection:
            digests.append(table_digest(connection, metadata))
        database.close()
    assert digests[0] == digests[1]
    assert digests[0][1] == len(ROWS)


def test_the_digest_is_the_same_on_postgres(tmp_path: Path, postgres_url: str) -> None:
    found = []
    for url in (f"sqlite:///{tmp_path / 'a.db'}", postgres_url):
        database = open_database(url)
        with database.writer.begin() as connection:
            metadata.create_all(connection)
            connection.execute(insert(things), ROWS)
            before = table_digest(connection, metadata)
            connection.execute(update(things).where(things.c.number == 9).values(share=0.25))
            changed = table_digest(connection, metadata)
            connection.execute(delete(things).where(things.c.number == 9))
            found.append((before, changed, table_digest(connection, metadata)))
        database.close()
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


def test_times_come_back_in_utc_and_need_a_zone(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    local = datetime(2013, 7, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=-4)))
    with database.writer.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(things).values(name="x", number=1, happened=local))
        found = connection.execute(select(things.c.happened)).scalar_one()
    assert found == local
    assert found is not None
    assert found.tzinfo is UTC
    with pytest.raises(Exception, match="time zone"), database.writer.begin() as connection:
        connection.execute(insert(things).values(name="y", number=1, happened=local.replace(tzinfo=None)))
    database.close()
