"""`python -m services.serving` runs serving."""

from chassis import server
from services.serving.server import build
from services.serving.settings import Settings

if __name__ == "__main__":
    server.run("serving", Settings(), build)
