#!/bin/sh
# Run once by the postgres image: the role of the service owns nothing; migrations grant it what it needs.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$SERVICE_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE berth LOGIN PASSWORD :'password';
SQL
