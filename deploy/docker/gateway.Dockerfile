# SPDX-License-Identifier: Apache-2.0
# The gateway: no TensorFlow, no compiler, nothing of pip or uv. Built from the root:
#
#   docker build -f deploy/docker/gateway.Dockerfile .
#
# The base is not pinned by digest here; `make images` pins the one that it finds.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements.lock ./
# uv, as the lock file has it, and with it what lists the contents of an image.
RUN awk '/^uv==/ {p = 1} p {print} p && !/\\$/ {exit}' requirements.lock > uv.txt \
    && python -m venv /tools \
    && /tools/bin/pip install --disable-pip-version-check --require-hashes -r uv.txt \
    && /tools/bin/uv pip install --python /tools --constraints requirements.lock cyclonedx-bom
COPY client client
COPY serving serving
# The closure of these two, at the versions and by the hashes of the lock file.
RUN --mount=type=cache,target=/root/.cache/uv \
    /tools/bin/uv venv --python "$(command -v python)" /opt/inkling \
    && /tools/bin/uv pip install --python /opt/inkling --link-mode copy --compile-bytecode \
        --constraints requirements.lock --build-constraints requirements.lock \
        './client[ondevice]' ./serving
COPY deploy/docker/left_out.txt ./
# The pattern of a line that matches nothing stays as it is, and `rm` fails.
RUN sites=$(echo /opt/inkling/lib/python3*/site-packages) \
    && grep -v '^#' left_out.txt | while read -r path; do rm -r $sites/$path || exit 1; done \
    && find /opt/inkling -name '*.pyi' -delete
RUN /tools/bin/cyclonedx-py environment --output-reproducible \
        --output-file /opt/inkling/sbom.cdx.json /opt/inkling

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG PYTHON_DIGEST=
ARG SOURCE=
ARG REVISION=unknown
ARG VERSION=
LABEL org.opencontainers.image.title="Inkling gateway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.base.digest="${PYTHON_DIGEST}" \
      inkling.sbom="/opt/inkling/sbom.cdx.json"
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
