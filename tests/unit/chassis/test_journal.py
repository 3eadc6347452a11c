"""What is written down of long work survives a death in the middle of a line."""

from pathlib import Path

import pytest

from chassis.journal import Journal


def steps(folder: Path, *names: str) -> list[object]:
    journal = Journal(folder, "work", str(folder / "artifacts"))
    return [journal.result(name, lambda _: True) for name in names]


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_results_are_read_again_after_a_line_was_cut_short(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path, "work", str(tmp_path / "artifacts"))
    journal.record("part 0", {"rows": 1})
    journal.record("part 1", {"rows": 2})
    path = tmp_path / "work.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    second = Journal(tmp_path, "work", str(tmp_path / "artifacts"))
    assert second.scratch == journal.scratch
    assert second.result("part 0", lambda _: True) == {"rows": 1}
    assert second.result("part 1", lambda _: True) is None
    second.record("part 1", {"rows": 3})
    second.record("part 2", {"rows": 4})
    assert steps(tmp_path, "part 0", "part 1", "part 2") == [{"rows": 1}, {"rows": 3}, {"rows": 4}]


def test_a_journal_without_a_whole_line_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "work.jsonl").write_text('"3f')
    Journal(tmp_path, "work", str(tmp_path / "artifacts")).record("part 0", 1)
    assert steps(tmp_path, "part 0") == [1]


def test_a_result_is_not_taken_when_what_it_names_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "work", str(tmp_path / "artifacts"))
    journal.record("part 0", {"digest": "a"})
    assert journal.result("part 0", lambda _: False) is None


def test_nothing_is_known_any_more_after_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "work", str(tmp_path / "artifacts"))
    journal.record("part 0", 1)
    journal.end()
    assert steps(tmp_path, "part 0") == [None]
