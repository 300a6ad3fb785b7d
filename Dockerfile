# Redis Proxy for Containers: docker build -t redisproxy:0.1.0 .
# For another platform: make image PLATFORM=linux/arm64.
#
# PYTHON_IMAGE may be any base with Python 3.11 or newer, its venv module and pip. BUILD_IMAGE is
# the same with gcc and Python's headers, which compile the framing. `make image-check` uses two
# bases of its own.
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-bookworm
ARG BUILD_IMAGE=docker.io/library/python:3.13-bookworm

# Stage 1 has network access, and makes wheels of the proxy and of everything that it needs.
FROM ${BUILD_IMAGE} AS wheels
WORKDIR /src
COPY . .
# --prefer-binary: compile only the proxy itself if the others have wheels.
RUN python3 -m pip wheel --no-cache-dir --prefer-binary --wheel-dir /wheels --constraint deploy/image-constraints.txt .

# Stage 2 is the image: only those wheels go in, and nothing is downloaded.
FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="redisproxy" \
      org.opencontainers.image.description="One Redis for many Kubernetes namespaces, each with its own password and database" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# twistd runs once as root here, to write dropin.cache, its list of plugins. Later it has no right
# to write that file. The list has to be newer than all plugins by a second: layers keep whole
# seconds alone, and with the same date twistd would make the list anew at each start.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python3 -m venv --without-pip /opt/redisproxy \
    && python3 -m pip --python /opt/redisproxy/bin/python3 install \
        --no-cache-dir --no-index --find-links /wheels redisproxy \
    && /opt/redisproxy/bin/python3 -c 'from redisproxy.resp import framing; assert framing.COMPILED, "no compiler in BUILD_IMAGE"' \
    && /opt/redisproxy/bin/twistd --help >/dev/null \
    && /opt/redisproxy/bin/redisproxy --version \
    && test -s /opt/redisproxy/lib/python3*/site-packages/twisted/plugins/dropin.cache \
    && touch --no-create --date='1 minute' /opt/redisproxy/lib/python3*/site-packages/twisted/plugins/dropin.cache
# Python: log lines are written at once, and no bytecode is written beside the modules, because the
# root is read-only.
# The C library keeps 8 MiB of free memory for the next large value: docs/decisions/free-memory.md.
ENV PATH=/opt/redisproxy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_MMAP_THRESHOLD_=8388608 \
    MALLOC_TRIM_THRESHOLD_=8388608
# An empty directory that nothing writes to: twistd looks for modules in the directory that it
# starts in.
WORKDIR /srv
# A number, so that Kubernetes can see that the user is not root. The user needs no name, no home
# and no file.
USER 10001:10001
EXPOSE 6379
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/redisproxy/bin/twistd", "-n", "--pidfile=", "redisproxy"]
