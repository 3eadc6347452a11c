from services.lineage.store import Filter, Stored
from services.lineage.writer import Tail

ALL = Filter()


def record(position: int, size: int = 10, type_: str = "t.A") -> Stored:
    return Stored(position, f"s/{position % 2}", 1, b"", type_, 0, bytes(size), b"")


def test_an_empty_tail_knows_nothing() -> None:
    assert Tail().page(0, ALL, 10) is None


def test_a_page_is_what_comes_after_a_position() -> None:
    tail = Tail()
    tail.extend([record(n) for n in range(5, 10)])
    page = tail.page(6, ALL, 2)
    assert page is not None
    assert ([r.position for r in page.records], page.examined) == ([7, 8], 8)
    page = tail.page(9, ALL, 2)
    assert page is not None
    assert (page.records, page.examined) == ([], 9)


def test_what_is_older_than_the_tail_is_read_elsewhere() -> None:
    tail = Tail()
    tail.extend([record(n) for n in range(5, 10)])
    assert tail.page(4, ALL, 2) is not None
    assert tail.page(3, ALL, 2) is None


def test_a_filtered_page_says_how_far_it_looked() -> None:
    tail = Tail()
    tail.extend([record(1), record(2, type_="t.B"), record(3)])
    page = tail.page(0, Filter(types=("t.B",)), 10)
    assert page is not None
    assert ([r.position for r in page.records], page.examined) == ([2], 3)
    page = tail.page(0, Filter(prefixes=("s/1",)), 10)
    assert page is not None
    assert [r.position for r in page.records] == [1, 3]


def test_the_tail_is_bounded_in_records_and_in_bytes() -> None:
    tail = Tail()
    tail.extend([record(n) for n in range(1, 5001)])
    assert tail.page(5000 - 2048, ALL, 1) is not None
    assert tail.page(5000 - 2049, ALL, 1) is None
    tail.extend([record(n, size=1_000_000) for n in range(5001, 5011)])
    assert tail.page(5010 - 4, ALL, 1) is not None
    assert tail.page(5010 - 5, ALL, 1) is None
