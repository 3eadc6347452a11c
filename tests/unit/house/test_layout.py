"""Rules of the tree that no linter states."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("lineage", "ingest", "features", "trainer", "registry", "serving", "monitor")
IMPURE = {"grpc", "sqlalchemy", "temporalio", "opentelemetry"}


def modules() -> list[Path]:
    folders = ("lineal", "chassis", "tabular", "services", "workflows", "examples", "tools")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not path.is_relative_to(ROOT / "lineal/api"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_a_module_that_evolves_state_is_pure() -> None:
    """A module that defines `evolve` is an aggregate: it decides on events and touches nothing else."""
    impure = {}
    for path in (ROOT / "services").rglob("*.py"):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "evolve" for node in tree.body):
            impure[path.relative_to(ROOT).as_posix()] = set(imported(tree)) & IMPURE
    assert {path: found for path, found in impure.items() if found} == {}


def test_every_module_fits_on_400_lines() -> None:
    long = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in modules()}
    assert {path: lines for path, lines in long.items() if lines > 400} == {}


def test_the_path_of_a_contract_is_its_package() -> None:
    for path in (ROOT / "proto").rglob("*.proto"):
        package = re.search(r"^package ([\w.]+);", path.read_text(), re.MULTILINE)
        expected = ".".join(path.parent.relative_to(ROOT / "proto").parts)
        assert package is not None, path
        if package[1] != "inference":  # the Open Inference Protocol fixes its package
            assert package[1] == expected, path


@pytest.mark.parametrize("service", [*SERVICES, "workflows"])
def test_an_image_installs_versions_that_the_tests_ran_with(service: str) -> None:
    pinned = (ROOT / "requirements/dev.txt").read_text().split("\n")
    image = [line for line in (ROOT / f"requirements/{service}.txt").read_text().split("\n") if re.match(r"\w", line)]
    assert image
    assert {line.split(" ")[0] for line in image} <= {line.split(" ")[0] for line in pinned}


def test_the_pins_cover_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted} - {"lineal"}
    pinned = {line.split("==")[0] for line in (ROOT / "requirements/dev.txt").read_text().split("\n") if "==" in line}
    assert names <= pinned, f"run `make requirements`: {sorted(names - pinned)} are not pinned"


def test_the_wheel_holds_the_client_alone(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"lineal"}
