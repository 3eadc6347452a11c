"""Scripts for those who work on Lineal itself."""
