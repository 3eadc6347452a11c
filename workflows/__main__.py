"""`python -m workflows` runs the worker and the bridge."""

from chassis import server
from workflows.server import build
from workflows.settings import Settings

if __name__ == "__main__":
    server.run("workflows", Settings(), build)
