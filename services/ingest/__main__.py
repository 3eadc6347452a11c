"""`python -m services.ingest` runs ingest."""

from chassis import server
from services.ingest.server import build
from services.ingest.settings import Settings

if __name__ == "__main__":
    server.run("ingest", Settings(), build)
