#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is in dist/ into clean environments: scripts/try_release.sh PYTHON VERSION DIR
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.tools/bin/uv python=$1 version=$2 place=$3
dist=$PWD/dist

# try NAME KIND RESOLUTION COMMANDS...: install one distribution, and run its commands.
try() {
    local name=$1 kind=$2 resolution=$3 environment=$place/$1-$2-$3 file
    shift 3
    case $kind in
        wheel) file=$(ls "$dist/${name//-/_}-$version"-py3-none-any.whl) ;;
        source) file=$(ls "$dist/${name//-/_}-$version.tar.gz") ;;
    esac
    "$uv" venv --quiet --no-python-downloads --python "python$python" "$environment"
    "$uv" pip install --quiet --python "$environment" --resolution "$resolution" \
        --find-links "$dist" "$file"
    "$uv" pip check --quiet --python "$environment"
    for command in "$@"; do
        (cd / && "$environment/bin/inkling" $command >/dev/null) ||
            { echo "release: 'inkling $command' failed with $name" >&2; exit 1; }
    done
    echo "python$python $name $kind $resolution: $("$environment/bin/inkling" --version)"
}

try inkling wheel highest "classify --help" "models --help"
try inkling source highest "classify --help"
# The oldest versions that the client says it works with.
try inkling wheel lowest-direct "classify --help" "models --help"
try inkling-serving wheel highest "serve --help" "up --help"
try inkling-serving source highest "serve --help"
try inkling-loadtest wheel highest "loadtest --help"
try inkling-training wheel highest "train --help" "publish --help"
