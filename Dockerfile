# clip-csi: the node plugin, and `clipfs` with the content cache's server.
#   docker build -t clip-csi .
# BASE is a Debian (12 or newer) or a python:3.11-slim image; Python is taken from it, or from
# Debian. The one that is built in is thrown away: no compiler, no pip and no cache is shipped.
ARG BASE=debian:12-slim

FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev libfuse3-dev pkg-config \
 && if [ ! -x /usr/local/bin/python3 ]; then \
      apt-get install -y --no-install-recommends python3 python3-dev python3-venv; \
    fi
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/clip-csi
ENV PIP="/pip/bin/pip --python /opt/clip-csi/bin/python --no-cache-dir"
WORKDIR /src
COPY pyproject.toml README.md ./
# Dependencies are a layer of their own: they change less often than the source.
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >/requirements.txt \
 && $PIP install --requirement /requirements.txt \
 && find /opt/clip-csi -name '*.so' -exec strip --strip-unneeded {} +
COPY clipfs clipfs
COPY csi csi
RUN $PIP install --no-deps .

FROM ${BASE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates libfuse3-3 $([ -x /usr/local/bin/python3 ] || echo python3) \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/apt /var/log/dpkg.log
COPY --from=build /opt/clip-csi /opt/clip-csi
ENV PATH=/opt/clip-csi/bin:$PATH
ENTRYPOINT ["clip-csi"]
