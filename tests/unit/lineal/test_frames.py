import pandas as pd
import pytest

from lineal.frames import as_table, columns, columns_by_row


def test_a_column_of_mixed_values_goes_as_text() -> None:
    table = as_table(pd.DataFrame({"amount": [1.5, "abc", None], "key": [1, 2, 3]}))
    assert table["amount"].to_pylist() == ["1.5", "abc", None]
    assert table["key"].to_pylist() == [1, 2, 3]


def test_other_things_are_no_rows() -> None:
    with pytest.raises(TypeError, match="DataFrame or an Arrow table"):
        as_table([1])


def test_rows_go_by_themselves_with_the_types_of_the_frame() -> None:
    frame = pd.DataFrame(
        {
            "text": ["a", None],
            "count": [1, 2],
            "amount": [float("nan"), 2.5],
            "late": [True, False],
            "at": pd.to_datetime(["2024-05-01", ""], utc=True),
            "gone": [None, None],
        }
    )
    apart = columns_by_row(frame)
    assert apart[0] == columns(frame.iloc[[0]])
    # By itself the text of this row would be of no type, and the instant too.
    of_text, *rest = apart[1]
    assert list(of_text.null_rows) == [0]
    assert list(of_text.strings.values) == [""]
    assert rest == columns(frame.iloc[[1]])[1:]
