import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SERVICES = sorted(f"services.{path.parent.name}.__main__" for path in (ROOT / "services").glob("*/__main__.py"))

_WATCH = """
import importlib, os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_ENABLE_FORK_SUPPORT"))
            sys.exit(0)
sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", [*SERVICES, "workflows.__main__"])
def test_grpc_is_first_imported_with_its_fork_handlers_off(module: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, module], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "false\n"
