# SPDX-License-Identifier: Apache-2.0
# The load test: Locust and the client, no TensorFlow and no gateway. Built from the root:
#
#   docker build -f deploy/docker/loadtest.Dockerfile .
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
COPY loadtest loadtest
# The closure of these two, at the versions and by the hashes of the lock file.
RUN --mount=type=cache,target=/root/.cache/uv \
    /tools/bin/uv venv --python "$(command -v python)" /opt/inkling \
    && /tools/bin/uv pip install --python /opt/inkling --link-mode copy --compile-bytecode \
        --constraints requirements.lock --build-constraints requirements.lock \
        ./client ./loadtest
RUN /tools/bin/cyclonedx-py environment --output-reproducible \
        --output-file /opt/inkling/sbom.cdx.json /opt/inkling

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG PYTHON_DIGEST=
ARG SOURCE=
ARG REVISION=unknown
ARG VERSION=
LABEL org.opencontainers.image.title="Inkling loadtest" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.base.digest="${PYTHON_DIGEST}" \
      inkling.sbom="/opt/inkling/sbom.cdx.json"
COPY --from=build /opt/inkling /opt/inkling
# Where the report goes, if it is to be kept.
RUN install -d -o 10001 -g 10001 /reports
ENV PATH=/opt/inkling/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
USER 10001:10001
WORKDIR /reports
STOPSIGNAL SIGINT
HEALTHCHECK NONE
ENTRYPOINT ["inkling"]
CMD ["loadtest", "--help"]
