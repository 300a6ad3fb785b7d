# Redis Proxy for Containers: docker build -t redisproxy:0.1.0 .
#
# Any base with Python 3.11 or newer, its venv module and pip will do; BUILD_IMAGE is the same with gcc and Python's headers,
# which the framing is compiled with. `make image-check` uses two of its own.
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-bookworm
ARG BUILD_IMAGE=docker.io/library/python:3.13-bookworm

# Stage 1 has the network and makes wheels of the proxy and of all that it needs.
FROM ${BUILD_IMAGE} AS wheels
WORKDIR /src
COPY . .
# --prefer-binary: nothing but the proxy itself is to be compiled where there are wheels.
RUN python3 -m pip wheel --no-cache-dir --prefer-binary --wheel-dir /wheels --constraint deploy/image-constraints.txt .

# Stage 2, the image: only those wheels go in, and nothing is fetched.
FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="redisproxy" \
      org.opencontainers.image.description="One Redis for many Kubernetes namespaces, each with its own password and database" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# twistd runs once as root, here, to write dropin.cache, its list of plugins: later it may not.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python3 -m venv --without-pip /opt/redisproxy \
    && python3 -m pip --python /opt/redisproxy/bin/python3 install \
        --no-cache-dir --no-index --find-links /wheels redisproxy \
    && /opt/redisproxy/bin/python3 -c 'from redisproxy.resp import framing; assert framing.COMPILED, "no compiler in BUILD_IMAGE"' \
    && /opt/redisproxy/bin/twistd --help >/dev/null \
    && /opt/redisproxy/bin/redisproxy --version \
    && test -s /opt/redisproxy/lib/python3*/site-packages/twisted/plugins/dropin.cache
# Python: log lines leave at once, and nothing is tried to be written beside the modules of a read-only root.
# The C library keeps 8 MiB of free memory for the next large value: docs/decisions/free-memory.md.
ENV PATH=/opt/redisproxy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_MMAP_THRESHOLD_=8388608 \
    MALLOC_TRIM_THRESHOLD_=8388608
# Empty, and nothing is written there: twistd looks for modules in the directory that it starts in.
WORKDIR /srv
# By number, so that Kubernetes can see that it is not root. It needs no name, no home and no file of its own.
USER 10001:10001
EXPOSE 6379
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/redisproxy/bin/twistd", "-n", "--pidfile=", "redisproxy"]
