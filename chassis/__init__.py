"""How any service of Lineal runs: settings, server, log client, projections, artifacts, telemetry. No ML word here."""

import os

# Read when grpc is first imported. Its fork handlers run between fork and exec of every child that uvloop starts, where
# under load they abort the child or hang it now and then (17 of 1,000). No service forks without exec, so none needs
# them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
