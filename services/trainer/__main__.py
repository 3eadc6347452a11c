"""`python -m services.trainer` runs the trainer."""

from chassis import server
from services.trainer.server import build
from services.trainer.settings import Settings

if __name__ == "__main__":
    server.run("trainer", Settings(), build)
