"""The servers that serving is compared with, each with the same model, in an environment of its own."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.environments import peer_python, peer_script
from benchmarks.servers import answers, await_start, free_port


@contextmanager
def mlserver(folder: Path, models: Path, kinds: tuple[str, ...], workers: int) -> Iterator[str]:
    """Run MLServer with its CatBoost runtime; 0 workers score in the server's own process. Yield its gRPC address."""
    ports = {f"{name}_port": free_port() for name in ("http", "grpc", "metrics")}
    folder.mkdir(parents=True)
    settings = {"host": "127.0.0.1", "parallel_workers": workers, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    for kind in kinds:
        (folder / kind).mkdir()
        model = {
            "name": kind,
            "implementation": "mlserver_catboost.CatboostModel",
            "parameters": {"uri": str(models / kind / "model.cbm")},
        }
        (folder / kind / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    command = [str(peer_python("mlserver").parent / "mlserver"), "start", str(folder)]
    with _running(command, folder, f"http://127.0.0.1:{ports['http_port']}/v2/health/ready"):
        yield f"127.0.0.1:{ports['grpc_port']}"


@contextmanager
def mlflow(folder: Path, model: Path) -> Iterator[str]:
    """Run `mlflow models serve` with one worker; yield its HTTP address."""
    folder.mkdir(parents=True)
    python = peer_python("mlflow")
    port = free_port()
    saved = folder / "model"
    subprocess.run([str(python), str(peer_script("mlflow_model")), str(model), str(saved)], check=True)
    command = [str(python.parent / "mlflow"), "models", "serve", "-m", str(saved), "-p", str(port)]
    with _running([*command, "--env-manager", "local", "--workers", "1"], folder, f"http://127.0.0.1:{port}/health"):
        yield f"127.0.0.1:{port}"


@contextmanager
def bentoml(folder: Path, model: Path) -> Iterator[str]:
    """Run BentoML with one worker; yield its HTTP address."""
    folder.mkdir(parents=True)
    port = free_port()
    service = f"{peer_script('bentoml_service').stem}:Service"
    command = [str(peer_python("bentoml").parent / "bentoml"), "serve", service, "--port", str(port)]
    command += ["--working-dir", str(peer_script("bentoml_service").parent), "--host", "127.0.0.1"]
    variables = {"BENTOML_MODEL": str(model), "BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "True"}
    with _running(command, folder, f"http://127.0.0.1:{port}/readyz", **variables):
        yield f"127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], folder: Path, ready: str, **variables: str) -> Iterator[None]:
    """Run a server until the end of the block, with the programs of its own environment first on its path."""
    path = f"{Path(command[0]).parent}:{os.environ['PATH']}"
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=os.environ | variables | {"PATH": path}
        ) as process,
    ):
        try:
            await_start(lambda: answers(ready), process, folder / "server.log")
            yield
        finally:
            process.terminate()
