from pathlib import Path

import pytest

from services.serving.spool import Spool, SpoolFull


def everything(spool: Spool, most_bytes: int = 10) -> list[bytes]:
    found: list[bytes] = []
    place = (0, 0)
    while True:
        frames, number, offset = spool.read(*place, most_bytes)
        if not frames:
            return found
        place = (number, offset)
        found += frames


def test_frames_come_back_in_order_over_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=50)
    frames = [bytes([n]) * (n % 7 + 1) for n in range(100)]
    for frame in frames:
        spool.append(frame)
    assert everything(spool) == frames
    assert len(list(tmp_path.iterdir())) > 5


def test_a_restart_finds_what_was_written(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.append(b"one")
    second = Spool(tmp_path)
    second.append(b"two")
    assert everything(second) == [b"one", b"two"]


def test_a_frame_cut_off_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.append(b"whole")
    first.append(b"cut off")
    first.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    second = Spool(tmp_path)
    second.append(b"next")
    assert everything(second) == [b"whole", b"next"]


def test_released_files_are_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=10)
    for n in range(10):
        spool.append(bytes([n]) * 10)
    _, number, _ = spool.read(0, 0, 1 << 20)
    before = spool.size
    spool.release(number)
    assert spool.size < before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_spool_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=60)
    spool.append(b"x" * 30)
    with pytest.raises(SpoolFull):
        spool.append(b"y" * 30)
    assert everything(spool) == [b"x" * 30]


def test_frames_of_one_answer_are_written_all_or_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=60)
    with pytest.raises(SpoolFull):
        spool.append(b"x" * 20, b"y" * 30)
    spool.append(b"x" * 20, b"y" * 20)
    assert everything(spool) == [b"x" * 20, b"y" * 20]


def test_a_disk_that_takes_no_new_file_is_full_until_it_does(tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=10)
    spool.append(b"x" * 10)
    # The name of the next file is taken, which no disk says otherwise than with an error.
    taken = tmp_path / f"{2:012d}.spool"
    taken.mkdir()
    for _ in range(2):
        with pytest.raises(SpoolFull):
            spool.append(b"y" * 10)
    taken.rmdir()
    spool.append(b"z" * 10)
    assert everything(spool) == [b"x" * 10, b"z" * 10]


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"one")
    frames, number, offset = spool.read(0, 0, 100)
    assert frames == [b"one"]
    assert spool.read(number, offset, 100)[0] == []
    spool.append(b"two")
    assert spool.read(number, offset, 100)[0] == [b"two"]
