"""Bundles, gates, approvals, endpoints and arms."""
