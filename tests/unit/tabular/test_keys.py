import numpy as np
import pyarrow as pa

from tabular import keys


def test_a_key_tells_types_and_places_apart() -> None:
    texts = keys.encode([pa.array(["1", "a", None]), pa.array(["x", None, "x"])])
    assert texts == ['["1","x"]', None, None]
    assert keys.encode([pa.array([1])]) != keys.encode([pa.array(["1"])])


def test_equal_keys_of_two_tables_share_a_code() -> None:
    left, right = keys.codes(
        [pa.array(["a", "b", None]), pa.array([1, 2, 3])], [pa.array(["b", "a", "a"]), pa.array([2, 1, 2])]
    )
    assert left[0] == right[1]
    assert left[1] == right[0]
    assert left[2] == -1
    assert len({left[0], left[1], right[2]}) == 3


def test_the_latest_row_of_each_code_wins() -> None:
    code = np.array([0, 1, 0, -1, 1])
    assert keys.latest_rows(code).tolist() == [2, 4]
    assert keys.latest_rows(code, np.array([9, 1, 2, 0, 1])).tolist() == [0, 4]


def test_all_rows_are_the_latest_where_no_code_comes_twice() -> None:
    assert keys.latest_rows(np.array([2, -1, 0]), np.array([1, 2, 3])).tolist() == [0, 2]
    assert keys.latest_rows(np.zeros(0, dtype=np.int64)).tolist() == []
