"""Sagas, their activities, the worker and the bridge that starts them from events."""
