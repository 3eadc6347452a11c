from pathlib import Path

import pytest

from tools.generate_contracts import Difference, compare, generate, synchronise

CONTRACT = 'syntax = "proto3";\npackage lineal.api.sample.v1;\nmessage Thing {{ string {field} = 1; }}\n'


def write_contract(protos: Path, field: str) -> None:
    folder = protos / "lineal/api/sample/v1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thing.proto").write_text(CONTRACT.format(field=field))


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    write_contract(tmp_path / "proto", "name")
    target = tmp_path / "fresh"
    target.mkdir()
    generate(tmp_path / "proto", target)
    return target / "lineal/api"


def test_every_generated_folder_is_a_package(generated: Path) -> None:
    assert {path.parent.relative_to(generated).as_posix() for path in generated.rglob("__init__.py")} == {
        ".",
        "sample",
        "sample/v1",
    }
    assert (generated / "sample/v1/thing_pb2.pyi").is_file()


def test_synchronise_makes_the_folders_equal(generated: Path, tmp_path: Path) -> None:
    committed = tmp_path / "committed"
    (committed / "gone/v1").mkdir(parents=True)
    (committed / "gone/v1/old_pb2.py").write_text("")
    difference = compare(generated, committed)
    assert difference.stale == (Path("gone/v1/old_pb2.py"),)
    synchronise(generated, committed, difference)
    assert compare(generated, committed) == Difference(changed=(), stale=())


def test_compare_names_a_changed_module(generated: Path, tmp_path: Path) -> None:
    committed = tmp_path / "committed"
    synchronise(generated, committed, compare(generated, committed))
    (committed / "sample/v1/thing_pb2.py").write_text("# edited by hand\n")
    assert compare(generated, committed).changed == (Path("sample/v1/thing_pb2.py"),)
