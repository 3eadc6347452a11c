"""Read the tables that commands take from files."""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import typer

from lineal.errors import LinealError

# `.csv.gz` is unpacked as it is read.
_TEXTS = (".csv", ".csv.gz")
_PARQUETS = (".parquet", ".pq")

File = Annotated[Path, typer.Argument(help="A .csv, .csv.gz or .parquet file of rows.")]
Separator = Annotated[str, typer.Option("--separator", help="What stands between the values of a CSV file.")]
Columns = Annotated[
    str,
    typer.Option(
        "--columns",
        help="Names of the columns of a CSV file without a header, with commas between; an empty one leaves it out.",
    ),
]
RowNumber = Annotated[
    str, typer.Option("--row-number", help="Add a column of this name: the number of the row in the file, from 1.")
]


def read_table(file: Path, separator: str = ",", columns: str = "", row_number: str = "") -> pa.Table:
    """Read a CSV or Parquet file. Raises LinealError."""
    try:
        table = _read(file, separator, columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise LinealError(f"{file} cannot be read: {error}") from error
    if row_number:
        if row_number in table.column_names:
            raise LinealError(f"{file} has a column {row_number!r} already; give --row-number another name")
        table = table.append_column(row_number, pa.array(range(1, len(table) + 1), pa.int64()))
    return table


def stem(file: Path) -> str:
    """Return a file's name without what says how it is written."""
    return file.name.removesuffix(".gz").rpartition(".")[0]


def _read(file: Path, separator: str, columns: str) -> pa.Table:
    if file.name.endswith(_PARQUETS):
        if columns or separator != ",":
            raise LinealError(f"{file} is Parquet and names its columns itself; leave out --columns and --separator")
        return pq.read_table(file)
    if not file.name.endswith(_TEXTS):
        raise LinealError(f"{file} is neither .csv, .csv.gz nor .parquet")
    if len(separator) != 1:
        raise LinealError(f"--separator must be one character, not {separator!r}")
    names = [name.strip() for name in columns.split(",")] if columns else []
    kept = [name for name in names if name]
    if len(set(kept)) < len(kept):
        raise LinealError("--columns names a column twice")
    return pyarrow.csv.read_csv(
        file,
        pyarrow.csv.ReadOptions(column_names=names),
        pyarrow.csv.ParseOptions(delimiter=separator),
        pyarrow.csv.ConvertOptions(include_columns=kept),
    )
