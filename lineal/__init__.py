"""Lineal: models that stay good in production, and answers that can be proven."""

__version__ = "0.1.0"
