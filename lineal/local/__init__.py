"""Everything on one machine: the services as processes on loopback, and Temporal's dev server."""
