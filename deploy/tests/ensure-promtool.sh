#!/usr/bin/env bash
# Sees to it that there is a promtool: the machine's own, else that of the system's packages.
set -euo pipefail

command -v promtool >/dev/null && exit

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "no promtool on PATH: installing the system's package prometheus" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq prometheus >/dev/null
    exit
fi
echo "no promtool: install it (Debian: apt-get install prometheus; elsewhere it is part of the Prometheus release)" >&2
exit 1
