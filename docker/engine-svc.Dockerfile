# engine-svc, from the root of the repository:
#   docker build -f docker/engine-svc.Dockerfile -t engine-svc:0.1.0 .
# Needs no file system that can be written to.

# Sources are gathered apart: with some storage drivers each copy into the builder's gigabyte takes ten seconds.
FROM scratch AS manifests
COPY Cargo.toml Cargo.lock /src/
COPY core/Cargo.toml /src/core/
COPY proto/Cargo.toml /src/proto/
COPY registry/Cargo.toml /src/registry/
COPY telemetry/Cargo.toml /src/telemetry/
COPY engine-svc/Cargo.toml /src/engine-svc/
COPY agent-host/Cargo.toml /src/agent-host/
COPY tests/Cargo.toml /src/tests/
COPY bench/Cargo.toml /src/bench/

FROM scratch AS sources
COPY core /src/core
COPY proto /src/proto
COPY registry /src/registry
COPY telemetry /src/telemetry
COPY engine-svc /src/engine-svc
COPY agent-host /src/agent-host

# Both programs come from one builder, written alike in both files, so that the second image finds it built.
FROM rust:1.95-slim-bookworm AS builder
WORKDIR /src
# Dependencies first: this layer is made anew only when a manifest or Cargo.lock changes. The sources are stand-ins.
COPY --from=manifests /src ./
# Tables of lines are half of a program's size and a part of the build's time; names of functions stay for backtraces.
ENV CARGO_PROFILE_RELEASE_DEBUG=0 \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN for crate in core proto registry telemetry engine-svc agent-host tests bench; do \
        mkdir -p "$crate/src" && touch "$crate/src/lib.rs" && echo 'fn main() {}' >"$crate/src/main.rs"; \
    done \
    && cp proto/src/main.rs proto/build.rs \
    && cargo build --release --locked --package engine-svc --package agent-host \
    && rm -r core/src proto/src proto/build.rs registry/src telemetry/src engine-svc/src agent-host/src
COPY --from=sources /src ./
# Sources keep the times of their checkout, which may lie before the stand-ins were built.
RUN find core proto registry telemetry engine-svc agent-host -type f -exec touch {} + \
    && cargo build --release --locked --package engine-svc --package agent-host

FROM debian:bookworm-slim
RUN groupadd --gid 10001 rustic \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin rustic
COPY LICENSE /usr/share/licenses/rusticai-k8s/LICENSE
COPY --from=builder /src/target/release/engine-svc /usr/local/bin/engine-svc
USER 10001:10001
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/engine-svc"]
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="engine-svc" \
      org.opencontainers.image.description="Places and routes Rustic AI agents on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="debian:bookworm-slim"
