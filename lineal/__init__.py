"""Lineal: models that stay good in production, and answers that can be proven."""
