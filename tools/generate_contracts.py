"""Generate the Python code of the contracts from proto/ into lineal/api/, or check that what is committed is current.

The code is generated into a temporary folder first and then synchronised file by file: new files before old ones are
removed, each through an atomic rename, so that a process that imports the contracts meanwhile never misses a module.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = Path("lineal/api")


@dataclass(frozen=True)
class Difference:
    """What distinguishes a folder from the freshly generated one; paths are relative to it."""

    changed: tuple[Path, ...]
    stale: tuple[Path, ...]

    def __bool__(self) -> bool:
        return bool(self.changed or self.stale)


def generate(protos: Path, target: Path) -> None:
    """Write the modules, stubs and packages of every contract under `protos` into `target`.

    Raises subprocess.CalledProcessError when the compiler refuses a contract; it has then said why on stderr.
    """
    scripts = Path(sys.executable).parent
    sources = sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python")]
    stubs = [f"--{kind}_out=quiet:{target}" for kind in ("mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", *plugins, *outputs, *stubs, *sources]
    subprocess.run(command, check=True)
    packages = {parent for path in target.rglob("*.py") for parent in path.relative_to(target).parents}
    for package in packages - {Path(), *GENERATED.parents}:
        (target / package / "__init__.py").touch()


def compare(fresh: Path, committed: Path) -> Difference:
    """Compare two folders byte by byte; caches of the interpreter do not count."""
    wanted, present = _files(fresh), _files(committed)
    changed = sorted(
        path for path in wanted if path not in present or (fresh / path).read_bytes() != (committed / path).read_bytes()
    )
    return Difference(changed=tuple(changed), stale=tuple(sorted(present - wanted)))


def synchronise(fresh: Path, committed: Path, difference: Difference) -> None:
    """Make `committed` hold exactly what `fresh` holds; the packages come first, what is stale goes last."""
    for path in sorted(difference.changed, key=lambda path: path.name != "__init__.py"):
        destination = committed / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = destination.with_name(f".{destination.name}.{os.getpid()}")
        temporary.write_bytes((fresh / path).read_bytes())
        temporary.replace(destination)
    for path in difference.stale:
        (committed / path).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; the exit code is 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the code is not current")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lineal-contracts-") as folder:
        generate(ROOT / "proto", Path(folder))
        fresh, committed = Path(folder) / GENERATED, ROOT / GENERATED
        difference = compare(fresh, committed)
        if options.check:
            for path in (*difference.changed, *difference.stale):
                sys.stderr.write(f"{GENERATED / path} is not current; run `make proto` and commit the result\n")
            return int(bool(difference))
        synchronise(fresh, committed, difference)
        sys.stdout.write(f"{GENERATED}: {len(difference.changed)} written, {len(difference.stale)} removed\n")
    return 0


def _files(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in {".py", ".pyi"} and not path.name.startswith(".")
    }


if __name__ == "__main__":
    raise SystemExit(main())
