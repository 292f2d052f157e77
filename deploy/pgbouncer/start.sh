#!/bin/sh
# PgBouncer with the one user that it knows, from the environment: PGBOUNCER_USER and PGBOUNCER_PASSWORD. The list of users lies
# in /tmp, which is memory in compose.yaml.
set -eu

: "${PGBOUNCER_USER:?is not set}" "${PGBOUNCER_PASSWORD:?is not set}"

doubled() {
	printf '%s' "$1" | sed 's/"/""/g'
}

umask 077
printf '"%s" "%s"\n' "$(doubled "$PGBOUNCER_USER")" "$(doubled "$PGBOUNCER_PASSWORD")" >"${PGBOUNCER_USERS:-/tmp/users.txt}"
unset PGBOUNCER_PASSWORD
exec pgbouncer "${PGBOUNCER_CONFIGURATION:-/etc/pgbouncer/pgbouncer.ini}"
