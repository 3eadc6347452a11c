"""What the tests of lineage share."""

import pytest


@pytest.fixture(autouse=True)
def patient_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PostgreSQL wait longer for a writer that runs in the tests' own process.

    There it pauses with everything else on a busy machine, and one that pauses for 4 s is rightly deposed. The tests of
    that are about processes of their own, which have the time that they come with (`processes.py`).
    """
    monkeypatch.setenv("LINEAL_LINEAGE_WRITER_TIMEOUT_SECONDS", "40")
