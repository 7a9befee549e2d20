# Prometheus for docker/compose.yaml where no registry with the public image is at hand. Wants /data to write to.
FROM debian:bookworm-slim
# Debian's own patches are wanted, so the version is the distribution's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends prometheus \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /data && chown 10001:10001 /data
COPY docker/prometheus.yaml /etc/prometheus/rustic-ai.yaml
USER 10001:10001
EXPOSE 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/rustic-ai.yaml", "--storage.tsdb.path=/data"]
