"""Projects that show Lineal at work."""
