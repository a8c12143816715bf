# RingMQ in a small image: one binary, the C library and OpenSSL, no shell, no root.
#
#   docker build -t ringmq:0.1.0 .
#   docker run --network host --security-opt seccomp=tuning/seccomp.json \
#       --ulimit nofile=1048576:1048576 --ulimit memlock=-1:-1 \
#       --env RINGMQ_LISTENERS__0__ALLOW_ANONYMOUS=true ringmq:0.1.0
#
# Host network, because a bridge costs an address translation per client; the seccomp profile,
# because the engine's default blocks io_uring. The variable lets every client in that reaches port
# 1883: without it the image's configuration (tuning/container.yaml) refuses all of them, because this
# build knows no users. `docker run ... ringmq:0.1.0 doctor` says what else the host lacks.
#
# Reproducible: versions are pinned here, crates by Cargo.lock, and paths are taken out of the
# binary. For bit-for-bit the same base images, replace the tags by digests
# (`docker buildx imagetools inspect IMAGE`).
#
# Built, before TLS to Kafka came (libssl-dev, libssl.so.3 of the distroless image), with buildah 1.28 against stand-ins for the two base images (Debian 12 with this toolchain; the
# C library and libgcc of Debian 12 with nothing else), since the real ones could not be fetched: 6.8 MB.
# Run with runc 1.1 as below, with the seccomp profile, without capabilities, on a read-only root: it
# serves, the health check answers inside, SIGTERM stops it. Not tried: Docker, the real base images.
# Podman and buildah need `--format docker`, or they leave out the HEALTHCHECK.
ARG RUST_VERSION=1.95.0
# The same release of Debian for both: the binary needs the C library it was linked against.
ARG DEBIAN=bookworm
ARG DISTROLESS=gcr.io/distroless/cc-debian12:nonroot

FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS build
WORKDIR /build
# C: mimalloc, and glommio's liburing, whose build script also wants to find a program `git`; librdkafka,
# which wants a C++ compiler and OpenSSL besides.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ git libc6-dev libssl-dev make pkg-config \
    && rm -rf /var/lib/apt/lists/*
COPY Cargo.toml Cargo.lock ./
COPY bench bench
COPY src src
# Named in Cargo.toml, so cargo wants to see them.
COPY tests tests
# Same inputs, same binary: no time stamps, no paths of the builder.
ENV SOURCE_DATE_EPOCH=0 \
    CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/build=. --remap-path-prefix=/usr/local/cargo=cargo"
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --locked --release --bin ringmq \
    && strip --strip-debug target/release/ringmq \
    && target/release/ringmq --version

# libc, libm, libgcc and OpenSSL 3 (for bridges to Kafka), which is all that the binary links; certificates; the user nonroot (65532).
FROM ${DISTROLESS}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="RingMQ" \
    org.opencontainers.image.description="Thread-per-core MQTT broker for Linux on io_uring" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /build/target/release/ringmq /usr/local/bin/ringmq
COPY tuning/container.yaml /etc/ringmq/ringmq.yaml
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/ringmq/
# Owns no file and has no login.
USER 65532:65532
EXPOSE 1883
# CONNECT and PINGREQ to a listener of this file and of the environment, in plain or over TLS or WebSocket,
# as it speaks. Being refused is an answer: a broker that lets nobody in is alive.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=4 \
    CMD ["/usr/local/bin/ringmq", "ping", "--config", "/etc/ringmq/ringmq.yaml"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/ringmq"]
CMD ["--config", "/etc/ringmq/ringmq.yaml"]
