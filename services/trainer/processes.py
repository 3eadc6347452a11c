"""Run a job in a process of its own and follow it."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from chassis.errors import LinealError, RuleViolated


class JobFailed(RuleViolated):
    """A job ended without a result, for a reason that lies in its input."""


class JobCrashed(LinealError):
    """A job's process died."""


Report = Callable[[str, int, int], None]


async def run_job(spec: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Run one job; return its result.

    `report` gets stage, steps done and steps. Raises JobFailed with the job's own words, JobCrashed when its process
    dies. Cancelling kills the process.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.trainer.job",
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
            # CatBoost may write lines of its own.
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
