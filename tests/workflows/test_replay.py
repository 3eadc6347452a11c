"""Stored histories replay on today's workflows: a change that would break running ones fails here.

`LINEAL_RECORD_HISTORIES=1 python -m pytest tests/workflows` records them anew; do so for new steps, and guard a changed
order of steps with `workflow.patched`, because sagas may wait for a person for days.
"""

import asyncio
import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from workflows.server import WORKFLOWS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_stored_history_replays(path: Path) -> None:
    history = WorkflowHistory.from_json(path.stem, await asyncio.to_thread(path.read_text, encoding="utf-8"))
    await Replayer(workflows=WORKFLOWS).replay_workflow(history)


def test_every_saga_and_the_check_of_parity_have_a_stored_history() -> None:
    kinds = set()
    for path in HISTORIES:
        started = json.loads(path.read_text(encoding="utf-8"))["events"][0]
        kinds.add(started["workflowExecutionStartedEventAttributes"]["workflowType"]["name"])
    assert kinds == {"Retrain", "Release", "Rollback", "Parity"}
