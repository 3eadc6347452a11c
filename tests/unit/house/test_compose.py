"""compose.yaml says the same as the code, and opens nothing to the world."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lineal.local.plan import SERVICES, processes
from lineal.profile import PORTS, Profile

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
TELEMETRY: dict[str, Any] = yaml.safe_load((ROOT / "compose.telemetry.yaml").read_text())["services"]


def test_ports_are_the_usual_ones_on_loopback_only() -> None:
    published = [port for each in (*COMPOSE.values(), *TELEMETRY.values()) for port in each.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    usual = {f"127.0.0.1:{port}:{port}" for port in PORTS.values()}
    # Metrics lie a hundred ports above the calls.
    usual |= {f"127.0.0.1:{PORTS[name] + 100}:{PORTS[name] + 100}" for name in SERVICES}
    assert usual == {port for name in (*SERVICES, "temporal") for port in COMPOSE[name]["ports"]}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_composed(name: str) -> None:
    service = COMPOSE[name]
    assert service["build"]["args"]["SERVICE"] == name
    assert (ROOT / service["build"]["args"].get("CODE", f"services/{name}") / "__main__.py").is_file()
    assert f"127.0.0.1:{PORTS[name]}" in service["healthcheck"]["test"]
    assert "mem_limit" in service
    assert service["restart"] == "unless-stopped"
    assert service["environment"][f"LINEAL_{name.upper()}_METRICS_PORT"] == str(PORTS[name] + 100)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in TELEMETRY[name]["environment"]


def test_the_profile_names_what_is_composed() -> None:
    inside = Profile.load(ROOT / "deploy/compose/profile.yaml")
    for name, port in PORTS.items():
        assert inside.address(name) == f"{'temporal' if name == 'temporal-ui' else name}:{port}"


def test_a_database_is_made_for_every_service_that_has_one() -> None:
    wanted = {name for name in SERVICES if f"LINEAL_{name.upper()}_DATABASE_URL" in COMPOSE[name]["environment"]}
    (made,) = [
        line
        for line in (ROOT / "deploy/compose/databases.sh").read_text().split("\n")
        if line.startswith("for service in")
    ]
    assert wanted == set(made.removeprefix("for service in ").removesuffix("; do").split())


def test_temporal_has_the_search_attributes_of_one_machine(tmp_path: Path) -> None:
    temporal = processes(tmp_path, Profile(), ROOT)[0]
    asked = {
        value
        for flag, value in zip(temporal.command, temporal.command[1:], strict=False)
        if flag == "--search-attribute"
    }
    composed = {
        arg.removeprefix("--search-attribute=")
        for arg in COMPOSE["temporal"]["command"]
        if "--search-attribute=" in arg
    }
    assert composed == asked
