"""Files that only this user reads: private keys and what goes with them. Blocking."""

import os
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user reads, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
