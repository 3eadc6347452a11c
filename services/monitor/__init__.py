"""Periods, drift, outcomes, performance and alarms."""
