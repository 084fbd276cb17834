# The one image of all processes. `make image` builds it, also where there is no container engine.
# Base images are arguments, so that a mirror or an exact digest can be given:
#   docker build --build-arg BASE_IMAGE=registry.example/debian@sha256:... .
# What is in the image is in scripts/image: packages.txt for Debian, uv.lock and Cargo.lock for the rest.
ARG BASE_IMAGE=docker.io/library/debian:12-slim
ARG BUILD_IMAGE=docker.io/library/rust:1-bookworm

FROM ${BASE_IMAGE} AS base
COPY scripts/image/packages.txt /tmp/packages.txt
RUN apt-get update -q \
 && grep -v '^#' /tmp/packages.txt | DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -q --no-install-recommends \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /tmp/packages.txt \
 && groupadd --gid 65532 drystone \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin drystone

FROM ${BUILD_IMAGE} AS build
ARG UV_VERSION=0.13.8
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3 python3-venv binutils git \
 && python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet "uv==${UV_VERSION}"
ENV PATH=/opt/uv/bin:$PATH
WORKDIR /source
COPY . .
COPY --from=base /var/lib/dpkg/status /tmp/dpkg-status
RUN python3 -m scripts.image tree --into /tree --dpkg-status /tmp/dpkg-status

FROM base
COPY --from=build /tree/ /
# Not root. Processes that touch devices or mount say so in their own securityContext.
USER 65532:65532
# tini is process 1: the FUSE process of a volume outlives the one that started it.
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/drystone"]
