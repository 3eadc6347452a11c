"""`python -m services.features` runs features."""

from chassis import server
from services.features.server import build
from services.features.settings import Settings

if __name__ == "__main__":
    server.run("features", Settings(), build)
