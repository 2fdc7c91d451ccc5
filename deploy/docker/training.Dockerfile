# SPDX-License-Identifier: Apache-2.0
# Training, on the CPU: the models are small, and the GPU is the engine's. Built from the
# root:
#
#   docker build -f deploy/docker/training.Dockerfile .
#
# A release pins the base by digest, as gateway.Dockerfile says. It is not pinned yet.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements.lock ./
# uv, as the lock file has it.
RUN awk '/^uv==/ {p = 1} p {print} p && !/\\$/ {exit}' requirements.lock > uv.txt \
    && python -m venv /tools \
    && /tools/bin/pip install --disable-pip-version-check --require-hashes -r uv.txt
COPY client client
COPY training training
# The closure of these two, at the versions and by the hashes of the lock file.
RUN --mount=type=cache,target=/root/.cache/uv \
    /tools/bin/uv venv --python "$(command -v python)" /opt/inkling \
    && /tools/bin/uv pip install --python /opt/inkling --link-mode copy --compile-bytecode \
        --constraints requirements.lock './client[ondevice]' ./training

FROM ${PYTHON_IMAGE}
ARG SOURCE=
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Inkling training" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/inkling /opt/inkling
# A new volume takes its owner from the directory that it is first mounted on.
RUN install -d -o 10001 -g 10001 /models /runs /captures
# Keras caches downloads, and Matplotlib fonts, under HOME; the rest is read-only.
ENV PATH=/opt/inkling/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/runs \
    INKLING_MODELS_DIR=/models \
    INKLING_DATA_DIR=/data
USER 10001:10001
# `inkling train` keeps its runs in ./runs.
WORKDIR /
STOPSIGNAL SIGTERM
# It runs once; its exit code is its health.
HEALTHCHECK NONE
ENTRYPOINT ["inkling"]
CMD ["train", "mlp", "cnn"]
