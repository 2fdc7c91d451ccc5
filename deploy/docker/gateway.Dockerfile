# SPDX-License-Identifier: Apache-2.0
# The gateway: no TensorFlow, no compiler, nothing of pip or uv. Built from the root:
#
#   docker build -f deploy/docker/gateway.Dockerfile .
#
# A release pins the base by digest: `docker buildx imagetools inspect
# python:3.11-slim-bookworm` prints it, and the default below becomes
# python:3.11-slim-bookworm@sha256:... It is not pinned yet.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements.lock ./
# uv, as the lock file has it.
RUN awk '/^uv==/ {p = 1} p {print} p && !/\\$/ {exit}' requirements.lock > uv.txt \
    && python -m venv /tools \
    && /tools/bin/pip install --disable-pip-version-check --require-hashes -r uv.txt
COPY client client
COPY serving serving
# The closure of these two, at the versions and by the hashes of the lock file.
RUN --mount=type=cache,target=/root/.cache/uv \
    /tools/bin/uv venv --python "$(command -v python)" /opt/inkling \
    && /tools/bin/uv pip install --python /opt/inkling --link-mode copy --compile-bytecode \
        --constraints requirements.lock './client[ondevice]' ./serving

FROM ${PYTHON_IMAGE}
ARG SOURCE=
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Inkling gateway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/inkling /opt/inkling
# A new volume takes its owner from the directory that it is first mounted on.
RUN install -d -o 10001 -g 10001 /captures
# Where a repository is mounted, for the embedded engine.
ENV PATH=/opt/inkling/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    INKLING_MODELS_DIR=/models
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080, timeout=2); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["inkling"]
CMD ["serve"]
