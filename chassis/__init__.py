"""How any service of Lineal runs: settings, server, log client, projections, artifacts, telemetry. No ML word here."""
