# Redis for docker/compose.yaml where no registry with the public image redis:7 is at hand. Wants /data to write to.
FROM debian:bookworm-slim
# Debian's own patches are wanted, so the version is the distribution's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /data && chown 10001:10001 /data
USER 10001:10001
EXPOSE 6379
STOPSIGNAL SIGTERM
ENTRYPOINT ["redis-server"]
