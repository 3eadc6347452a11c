"""`python -m services.monitor` runs monitor."""

from chassis import server
from services.monitor.server import build
from services.monitor.settings import Settings

if __name__ == "__main__":
    server.run("monitor", Settings(), build)
