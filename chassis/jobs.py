"""Heavy work of a service in a process of its own: `run_job` follows it, `work` is what the process does.

The process reads one JSON document from a line of standard input, writes progress and at last the result as JSON lines
to standard output, and ends at once when standard input closes: a service that dies takes its jobs with it.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from chassis.errors import LinealError, RuleViolated


class JobFailed(RuleViolated):
    """A job ended without a result, for a reason that lies in its input."""


class JobCrashed(LinealError):
    """A job's process died."""


Report = Callable[[str, int, int], None]
Spec = Mapping[str, Any]


async def run_job(module: str, spec: Spec, report: Report) -> dict[str, Any]:
    """Run one job, `python -m module`; return its result.

    `report` gets stage, steps done and steps. Raises JobFailed with the job's own words, JobCrashed when its process
    dies. Cancelling kills the process.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    errors = asyncio.create_task(process.stderr.read())
    last: dict[str, Any] = {}
    try:
        process.stdin.write(json.dumps(spec).encode() + b"\n")
        await process.stdin.drain()
        async for line in process.stdout:
            # Libraries may write lines of their own.
            if line.startswith(b"{"):
                last = json.loads(line)
                if "stage" in last:
                    report(last["stage"], last["done"], last["steps"])
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        text = (await errors).decode(errors="replace").strip()
    if "result" in last:
        result: dict[str, Any] = last["result"]
        return result
    if "failure" in last:
        raise JobFailed(str(last["failure"]))
    raise JobCrashed(f"the job's process ended with code {code}: {text.splitlines()[-1] if text else 'no message'}")


def work(do: Callable[[Spec, Report], Mapping[str, Any]]) -> int:
    """Do one job in this process; return its exit code. What raises ValueError ends as JobFailed with its words."""
    spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = do(spec, _report)
    except ValueError as error:
        _write({"failure": str(error)})
        return 0
    _write({"result": result})
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _report(stage: str, done: int, steps: int) -> None:
    _write({"stage": stage, "done": done, "steps": steps})


def _write(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
