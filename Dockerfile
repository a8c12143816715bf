# RingMQ in a small image: one binary on Debian slim, no root.
#
#   docker build -t ringmq:0.1.0 .
#   docker run --network host --security-opt seccomp=tuning/seccomp.json \
#       --ulimit nofile=1048576:1048576 --ulimit memlock=-1:-1 ringmq:0.1.0
#
# Host network, because a bridge costs an address translation per client; the seccomp profile,
# because the engine's default blocks io_uring. `docker run ... ringmq:0.1.0 doctor` says what else
# the host lacks. Without a configuration it listens on 127.0.0.1:1883 of the host.
#
# Reproducible: versions are pinned here, crates by Cargo.lock, and paths are taken out of the
# binary. For bit-for-bit the same base images, replace the tags by digests
# (`docker buildx imagetools inspect IMAGE`).
#
# Built with buildah 1.28 against stand-ins for the base images (Debian 12 from its packages, and the
# same with this toolchain), twice: the same binary, bit for bit. Run with runc as below but for the
# limits: it serves, `ringmq ping` and `doctor` answer inside, SIGTERM stops it. Not tried: Docker.
# Podman and buildah need `--format docker`, or they leave out the HEALTHCHECK.
ARG RUST_VERSION=1.95.0
# The same release of Debian for both: the binary needs the C library it was linked against.
ARG DEBIAN_VERSION=12.11

FROM rust:${RUST_VERSION}-slim-bookworm AS build
WORKDIR /build
# C: mimalloc, and glommio's liburing, whose build script also wants to find a program `git`.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev make \
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
    && mkdir -p /root-files/etc/ringmq \
    && target/release/ringmq --version

FROM debian:${DEBIAN_VERSION}-slim
COPY --from=build /build/target/release/ringmq /usr/local/bin/ringmq
COPY --from=build /root-files/etc/ringmq /etc/ringmq
# Nobody's: owns no file and has no login.
USER 65532:65532
EXPOSE 1883
# CONNECT and PINGREQ to the first TCP listener of defaults and environment: 127.0.0.1:1883, or
# RINGMQ_LISTENERS__0__BIND. For another port in a file: --health-cmd 'ringmq ping 127.0.0.1:1884'.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=4 \
    CMD ["/usr/local/bin/ringmq", "ping"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/ringmq"]
