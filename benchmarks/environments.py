"""Environments of their own for what is compared with, made once per list of pinned versions."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

_CACHE = Path.home() / ".cache" / "lineal" / "benchmarks"
_PEERS = Path(__file__).parent / "peers"


def peer_python(name: str) -> Path:
    """Return the interpreter of the environment for `peers/<name>.txt`, installed with pip when it is not there."""
    pins = _PEERS / f"{name}.txt"
    key = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = _CACHE / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing {pins.name} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(pins)]
        subprocess.run(install, check=True)
        (folder / "ready").touch()
    return python


def peer_script(name: str) -> Path:
    """Return the path of a script that runs in such an environment."""
    return _PEERS / f"{name}.py"
