"""Datasets, validation, quarantine and snapshots."""
