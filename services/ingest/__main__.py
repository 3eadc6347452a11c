"""Run ingest: `python -m services.ingest`, or with `restore <backup>` restore the vault of a backup."""

import sys

from chassis import server
from services.ingest.restoring import main
from services.ingest.server import build
from services.ingest.settings import Settings

if __name__ == "__main__":
    if sys.argv[1:2] == ["restore"]:
        sys.exit(main(sys.argv[2:]))
    server.run("ingest", Settings(), build)
