"""Run lineage: `python -m services.lineage`, or restore a backup: `python -m services.lineage restore <backup>`."""

import sys

from chassis.server import run
from services.lineage.restoring import main
from services.lineage.server import build
from services.lineage.settings import Settings

if __name__ == "__main__":
    if sys.argv[1:2] == ["restore"]:
        sys.exit(main(sys.argv[2:]))
    run("lineage", Settings(), build)
