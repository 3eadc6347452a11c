"""Measurements against stated goals, side by side with what others reach on the same machine in the same run."""
