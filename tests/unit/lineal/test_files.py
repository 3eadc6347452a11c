import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lineal.cli.files import read_table, stem
from lineal.errors import LinealError


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    file = tmp_path / "raw.csv.gz"
    file.write_bytes(gzip.compress(b"59 2 32.1\n48 1 21.6\n"))
    return file


def test_a_packed_file_without_a_header_gets_names_and_row_numbers(packed: Path) -> None:
    table = read_table(packed, " ", "age,sex,bmi", "patient")
    assert table.to_pydict() == {"age": [59, 48], "sex": [2, 1], "bmi": [32.1, 21.6], "patient": [1, 2]}


def test_a_column_without_a_name_is_left_out(packed: Path) -> None:
    assert read_table(packed, " ", "age,,bmi").column_names == ["age", "bmi"]


def test_a_header_names_the_columns(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,x\n")
    assert read_table(file).to_pydict() == {"a": [1], "b": ["x"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "age,sex,age"}, "twice"),
        ({"columns": "age,sex"}, "cannot be read"),
        ({"columns": "age,sex,bmi", "row_number": "age"}, "--row-number"),
        ({"separator": "  "}, "one character"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(packed: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(LinealError, match=message):
        read_table(packed, **({"separator": " "} | options))


def test_parquet_names_its_columns_itself(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    assert read_table(file, row_number="n").to_pydict() == {"a": [1], "n": [1]}
    with pytest.raises(LinealError, match="leave out --columns"):
        read_table(file, columns="a")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LinealError, match="neither"):
        read_table(tmp_path / "rows.xlsx")


def test_the_stem_names_a_batch() -> None:
    assert [stem(Path(name)) for name in ("a/raw.csv.gz", "b/x.y.parquet")] == ["raw", "x.y"]
