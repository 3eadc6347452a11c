"""Run all benchmarks, or those named: `python -m benchmarks [--quick] [NAME ...]`; exit 1 when a goal is missed."""

import subprocess
import sys
from pathlib import Path

_BENCHMARKS = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if "def main(" in path.read_text(encoding="utf-8")
)


def _all(arguments: list[str]) -> int:
    options = [each for each in arguments if each.startswith("-")]
    names = [each for each in arguments if not each.startswith("-")] or _BENCHMARKS
    unknown = set(names) - set(_BENCHMARKS)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(_BENCHMARKS)}")
        return 2
    codes = []
    for name in names:
        print(f"== {name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False).returncode)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(_all(sys.argv[1:]))
