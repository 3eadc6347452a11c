import pandas as pd
import pytest

from lineal.frames import as_table


def test_a_column_of_mixed_values_goes_as_text() -> None:
    table = as_table(pd.DataFrame({"amount": [1.5, "abc", None], "key": [1, 2, 3]}))
    assert table["amount"].to_pylist() == ["1.5", "abc", None]
    assert table["key"].to_pylist() == [1, 2, 3]


def test_other_things_are_no_rows() -> None:
    with pytest.raises(TypeError, match="DataFrame or an Arrow table"):
        as_table([1])
