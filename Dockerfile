# clip-csi: one image for the node plugin, the content cache's server and `clipfs`.
#   docker build -t clip-csi .
# BASE is a Debian (12 or newer) or a python:3.11-slim image; Python is taken from it, or from
# Debian. The one that is built in is thrown away: no compiler, no pip and no cache is shipped.
ARG BASE=debian:12-slim

FROM ${BASE} AS dependencies
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev libfuse3-dev pkg-config \
 && if [ ! -x /usr/local/bin/python3 ]; then \
      apt-get install -y --no-install-recommends python3 python3-dev python3-venv; \
    fi
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/clip-csi
ENV PIP="/pip/bin/pip --python /opt/clip-csi/bin/python --no-cache-dir"
# Compiled here, once, and for good: a container's root is read-only, and no file's time matters.
ENV COMPILE="python3 -m compileall -q --invalidation-mode unchecked-hash"
WORKDIR /src
COPY pyproject.toml ./
# kubernetes' client comes twice, and the second one, for asyncio, is a third of all: never loaded.
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >/requirements.txt \
 && $PIP install --no-compile --requirement /requirements.txt \
 && rm -rf /opt/clip-csi/lib/python3*/site-packages/kubernetes/aio \
 && find /opt/clip-csi -name '*.so' -exec strip --strip-unneeded {} + \
 && find /opt/clip-csi \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.[ch]' \) -delete \
 && $COMPILE /opt/clip-csi

FROM dependencies AS product
COPY README.md ./
COPY clipfs clipfs
COPY csi csi
RUN $PIP install --no-compile --no-deps --prefix /product . && $COMPILE /product

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="clip-csi" \
      org.opencontainers.image.description="OCI images as Kubernetes volumes: mounted at once, read lazily through node disk, content cache and registry" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates libfuse3-3 $([ -x /usr/local/bin/python3 ] || echo python3) \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/cache/ldconfig/* \
      /var/log/apt /var/log/dpkg.log
# What changes seldom is a layer of its own: an upgrade pulls the product alone, half a megabyte.
COPY --from=dependencies /opt/clip-csi /opt/clip-csi
COPY --from=product /product /opt/clip-csi
ENV PATH=/opt/clip-csi/bin:$PATH
# root: the node plugin mounts. The content cache needs nothing of root's, and its pods say so.
ENTRYPOINT ["clip-csi"]
