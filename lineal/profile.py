"""Where the services are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

PORTS: Mapping[str, int] = {
    "lineage": 7401,
    "ingest": 7402,
    "features": 7403,
    "trainer": 7404,
    "registry": 7405,
    "serving": 7406,
    "monitor": 7407,
    "workflows": 7408,
    "temporal": 7233,
    "temporal-ui": 8233,
}


def _at(host: str) -> dict[str, str]:
    return {name: f"{host}:{port}" for name, port in PORTS.items()}


class ProfileError(ValueError):
    """A profile cannot be read: the message says which and why."""


@dataclass(frozen=True)
class Profile:
    """Addresses of the services by name (`lineage`, `ingest`, ..., `temporal`, `temporal-ui`)."""

    addresses: Mapping[str, str] = field(default_factory=lambda: _at("127.0.0.1"))

    @classmethod
    def load(cls, source: str | Path | None = None) -> "Profile":
        """Read a profile.

        `source` is a YAML file of `name: host:port`, or `host` (the services on their usual ports there), or
        `host:port` (one load balancer in front of all services). None takes `LINEAL_PROFILE`, and without it loopback.
        Raises ProfileError when the file or the address cannot be read.
        """
        text = str(source) if source is not None else os.environ.get("LINEAL_PROFILE", "")
        if not text:
            return cls()
        path = Path(text)
        if path.suffix in (".yaml", ".yml", ".json") or "/" in text or path.is_file():
            return cls(_read(path))
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            return cls(_at(text))
        if not port.isdigit():
            raise ProfileError(f"profile {text!r} is neither a file nor an address; give a file, host or host:port")
        temporal = {name: address for name, address in _at(host).items() if name.startswith("temporal")}
        return cls(dict.fromkeys(PORTS, text) | temporal)

    def address(self, service: str) -> str:
        """Return the `host:port` of a service.

        Raises ProfileError when the profile does not have it.
        """
        try:
            return self.addresses[service]
        except KeyError:
            raise ProfileError(
                f"the profile has no address for {service!r}; it has {', '.join(sorted(self.addresses))}"
            ) from None

    def save(self, path: Path) -> None:
        """Write the profile as a file that `load` reads."""
        path.write_text(yaml.safe_dump(dict(self.addresses), sort_keys=True), encoding="utf-8")


def _read(path: Path) -> dict[str, str]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProfileError(f"profile {path} does not exist; make one with `lineal up` or name another") from None
    except (OSError, yaml.YAMLError) as error:
        raise ProfileError(f"profile {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(v, str) and ":" in v for v in found.values()):
        raise ProfileError(f"profile {path} must be a mapping of service name to host:port")
    unknown = sorted(set(found) - set(PORTS))
    if unknown:
        raise ProfileError(f"profile {path} names unknown services: {', '.join(unknown)}")
    return _at("127.0.0.1") | found


# A connect profile, its file, or one address; None is the usual file.
Connection = Profile | Path | str | None
