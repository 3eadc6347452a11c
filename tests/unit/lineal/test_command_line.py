import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["apply"], 2, "Missing argument 'folder'"),
        (["train", "--nonsense"], 2, "No such option: --nonsense"),
        (["aply", "x"], 2, "No such command 'aply'"),
        (["apply", "nowhere"], 1, "is no folder with .yaml files"),
        (["score", "late", "flights", "--out", "nowhere/x.parquet"], 1, "is no place for a file"),
        (["scoring", "x", "--out", "x.parquet", "--no-wait"], 1, "--out needs the result"),
        (["version"], 0, ""),
    ],
)
def test_what_is_mistyped_ends_in_a_message(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lineal.cli", *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=50
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
