"""What keeps workflows deterministic and quick: their modules import little, and each activity they name exists."""

import ast
import sys
from pathlib import Path

import pytest

from workflows import messages, scoring_messages
from workflows.monitor_activities import MonitorActivities
from workflows.registry_activities import RegistryActivities
from workflows.scoring_activities import ScoringActivities
from workflows.training_activities import TrainingActivities

FOLDER = Path(messages.__file__).parent
MODULES = (
    "messages",
    "saga",
    "releasing",
    "release",
    "retrain",
    "rollback",
    "scoring_messages",
    "score",
    "watch",
    "parity",
)
ALLOWED = {*sys.stdlib_module_names, "temporalio", *(f"workflows.{name}" for name in MODULES)}


@pytest.mark.parametrize("name", MODULES)
def test_a_workflow_module_imports_only_temporal_and_its_own(name: str) -> None:
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                imported = [alias.name for alias in node.names]
            case ast.ImportFrom(module="workflows"):
                imported = [f"workflows.{alias.name}" for alias in node.names]
            case ast.ImportFrom():
                imported = [str(node.module)]
            case _:
                continue
        for module in imported:
            assert module in ALLOWED or module.partition(".")[0] in ALLOWED, f"{name} imports {module}"


def test_every_activity_that_workflows_name_is_defined_once() -> None:
    held = {**vars(messages), **vars(scoring_messages)}
    named = sorted(value.name for value in held.values() if isinstance(value, messages.Activity))
    defined = sorted(
        definition.name
        for holder in (RegistryActivities, TrainingActivities, MonitorActivities, ScoringActivities)
        for method in vars(holder).values()
        if (definition := getattr(method, "__temporal_activity_definition", None)) is not None
    )
    assert named == defined
