#!/usr/bin/env bash
# Sees to it that there is a PostgreSQL server to start: the machine's own, else that of the system's packages.
set -euo pipefail

compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && exit
command -v initdb >/dev/null && exit

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "no PostgreSQL: installing the system's package" >&2
    # Nobody here wants the package's own cluster: the tests make theirs.
    mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/tests.conf
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null
    exit
fi
echo "no PostgreSQL: install it (Debian: apt-get install postgresql)" >&2
exit 1
