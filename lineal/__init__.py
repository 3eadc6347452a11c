"""Lineal: models that stay good in production, and answers that can be proven.

>>> import lineal
>>> with lineal.connect() as client:
...     client.apply("examples/flights")
"""

from lineal.client import Applied, Client, Ingested, connect
from lineal.errors import CallFailed, LinealError, ProjectInvalid

__all__ = ["Applied", "CallFailed", "Client", "Ingested", "LinealError", "ProjectInvalid", "connect"]

__version__ = "0.1.0"
