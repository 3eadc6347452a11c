from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from services.features.scratch import Scratch

TABLES = [pa.table({"a": [1, 2], "b": ["x", None]}), pa.table({"a": [3], "b": ["y"]})]


@pytest.fixture(params=["local", "remote"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    root = tmp_path / "build" if request.param == "local" else f"memory://{tmp_path.name}/build"
    return Scratch(str(root), tmp_path / "cache")


def test_a_file_gives_its_tables_back_by_place_and_column(scratch: Scratch) -> None:
    name = scratch.write(TABLES)
    assert scratch.read(name, 0).equals(TABLES[0])
    assert scratch.read(name, 1, ["b"]).equals(TABLES[1].select(["b"]))


def test_equal_tables_have_one_name(scratch: Scratch) -> None:
    assert scratch.write(TABLES) == scratch.write(iter(TABLES)) != scratch.write(TABLES[:1])


def test_a_file_needs_a_table(scratch: Scratch) -> None:
    with pytest.raises(ValueError, match="at least one table"):
        scratch.write([])


def test_a_file_that_is_there_is_whole(scratch: Scratch) -> None:
    assert scratch.whole(scratch.write(TABLES))
    assert not scratch.whole("0" * 64)


def test_a_file_that_lost_its_end_is_not_whole_and_is_made_again(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path), tmp_path / "cache")
    name = scratch.write(TABLES)
    file = tmp_path / name
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert not scratch.whole(name)
    assert scratch.write(TABLES) == name
    assert scratch.whole(name)
    assert file.read_bytes() == data


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[pa.Table]:
        yield TABLES[0]
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        Scratch(str(tmp_path / "build"), tmp_path / "cache").write(failing())
    assert not list((tmp_path / "build").iterdir())
