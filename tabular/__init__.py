"""What a row, a feature and a bundle are: pure functions on arrays, shared by every service that touches them."""
