#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds images from deploy/docker: scripts/images.sh gateway training loadtest
#
# The base is pinned by the digest that its registry states; where no registry can be
# reached, it is whatever this engine has under the name, and the script says so.
set -euo pipefail
cd "$(dirname "$0")/.."
docker=${DOCKER:-docker}
base=python:3.11-slim-bookworm

"$docker" image inspect "$base" >/dev/null 2>&1 || "$docker" pull --quiet "$base" >/dev/null
digest=$("$docker" image inspect --format '{{join .RepoDigests "\n"}}' "$base" | head -n 1)
digest=${digest#*@}
if [ -n "$digest" ]; then
    base=$base@$digest
else
    echo "images: $base has no digest here, so the images do not name one" >&2
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' client/pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for name in "$@"; do
    DOCKER_BUILDKIT=1 "$docker" build --quiet \
        --build-arg "PYTHON_IMAGE=$base" --build-arg "PYTHON_DIGEST=$digest" \
        --build-arg "SOURCE=${SOURCE:-}" --build-arg "REVISION=$revision" \
        --build-arg "VERSION=$version" \
        --tag "inkling-$name" --tag "inkling-$name:$version" \
        --file "deploy/docker/$name.Dockerfile" .
    size=$("$docker" image inspect --format '{{.Size}}' "inkling-$name")
    echo "inkling-$name:$version $((size / 1000000)) MB"
done
