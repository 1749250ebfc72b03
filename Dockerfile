# A node of VeilNet Conflux: the Debian package, run in the foreground by a user who is not root.
#
#   docker build -t veilnet/conflux:beta .
#
# docs/install.md says how to run it. The tests carry out these steps without Docker.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates make python3-venv
WORKDIR /src
COPY . .
RUN make env && .venv/bin/python tools/release --into /built debian

FROM debian:bookworm-slim
COPY --from=build /built/dist /built
# A container has no service manager that could hand a capability to a user: the file has it. The
# command that only looks, `veilnet-conflux status`, is by the other Python, which has none.
RUN apt-get update \
 && apt-get install -y --no-install-recommends /built/*.deb libcap2-bin \
 && useradd --system --gid veilnet --home-dir /var/lib/veilnet --create-home veilnet \
 && cp "$(readlink -f /usr/bin/python3)" /usr/lib/veilnet-conflux/bin/python3-net-admin \
 && chown root:veilnet /usr/lib/veilnet-conflux/bin/python3-net-admin \
 && chmod 750 /usr/lib/veilnet-conflux/bin/python3-net-admin \
 && setcap cap_net_admin=ep /usr/lib/veilnet-conflux/bin/python3-net-admin \
 && apt-get purge -y --autoremove libcap2-bin \
 && rm -rf /built /var/lib/apt/lists/*
ENV VEILNET_CONFIG_DIR=/var/lib/veilnet
VOLUME /var/lib/veilnet
USER veilnet
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["sh", "-c", "veilnet-conflux status --json | grep -q '\"state\": \"running\"'"]
ENTRYPOINT ["/usr/lib/veilnet-conflux/bin/python3-net-admin", "-I", "-m", "conflux"]
CMD ["up", "--foreground"]
