#!/usr/bin/env bash
# Run once by the postgres image, on an empty volume: a role for each service, and a database that only this role reaches.
set -euo pipefail
for service in lineage ingest features trainer registry monitor workflows; do
  psql --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 \
    --set service="$service" --set password="$POSTGRES_PASSWORD" <<'SQL'
CREATE ROLE :"service" LOGIN PASSWORD :'password';
CREATE DATABASE :"service" OWNER :"service";
REVOKE ALL ON DATABASE :"service" FROM PUBLIC;
SQL
done
