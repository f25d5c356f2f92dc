# One static binary on an empty root, run as an unprivileged user: no shell and no packages.
#   docker build -t weighbridge .
FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends musl-tools \
 && rm -rf /var/lib/apt/lists/*
# The C parts (SQLite, the allocator) are compiled against musl too.
ENV TARGET_CC=musl-gcc
RUN target=$(uname -m)-unknown-linux-musl; \
    rustup target list --installed | grep -qx "$target" || rustup target add "$target"
WORKDIR /src
COPY . .
RUN target=$(uname -m)-unknown-linux-musl \
 && cargo build --locked --release --bin weighbridge --target "$target" \
 && install -D -m 0755 "target/$target/release/weighbridge" /root-fs/weighbridge \
 && strip --strip-debug /root-fs/weighbridge \
 && install -d -m 0700 -o 65532 -g 65532 /root-fs/var/lib/weighbridge

FROM scratch
LABEL org.opencontainers.image.title="Weighbridge" \
      org.opencontainers.image.description="A traffic-shifting proxy that rolls back in milliseconds" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.documentation="README.md"
COPY --from=build /root-fs/ /
# Keeps memory at its peak: pages returned to the system would be faulted in by the next large body.
ENV MIMALLOC_PURGE_DELAY=-1
USER 65532:65532
# State and journal; the rest of the root may be read-only.
VOLUME /var/lib/weighbridge
# Traffic, and the admin API, which listens on the container's loopback unless configured otherwise.
EXPOSE 8080 9900
HEALTHCHECK --interval=10s --timeout=3s --start-period=2s CMD ["/weighbridge", "healthcheck"]
ENTRYPOINT ["/weighbridge"]
CMD ["run", "--config", "/etc/weighbridge/weighbridge.yaml"]
