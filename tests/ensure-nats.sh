#!/usr/bin/env bash
# Sees to it that there is a nats-server, for tests of agents on NATS: the machine's own, else the system package. Where neither is
# to be had, these tests are left out.
set -euo pipefail

command -v nats-server >/dev/null && exit
[ ! -x /usr/sbin/nats-server ] || exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "no nats-server on PATH: installing the system package" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nats-server >/dev/null && exit
fi
echo "no nats-server: tests of agents on NATS are left out (Debian: apt-get install nats-server; macOS: brew install nats-server)" >&2
