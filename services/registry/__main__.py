"""`python -m services.registry` runs the registry."""

from chassis import server
from services.registry.server import build
from services.registry.settings import Settings

if __name__ == "__main__":
    server.run("registry", Settings(), build)
