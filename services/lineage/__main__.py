"""Run lineage: `python -m services.lineage`."""

from chassis.server import run
from services.lineage.server import build
from services.lineage.settings import Settings

if __name__ == "__main__":
    run("lineage", Settings(), build)
