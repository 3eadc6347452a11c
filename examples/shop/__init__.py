"""A small project that is trained and asked from a notebook."""
