#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the four distributions into dist/, and tries each in clean environments:
# scripts/release.sh VERSION, or no version for the one that the files name.
#
# The version stands in client/pyproject.toml; with a VERSION, every file gets it.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.tools/bin/uv
members=(client serving training loadtest)
pythons=(3.11 3.12 3.13 3.14)

old=$(sed -n 's/^version = "\(.*\)"/\1/p' client/pyproject.toml)
version=${1:-$old}
if [ "$version" != "$old" ]; then
    for member in . "${members[@]}"; do
        sed -i -e "s/^version = \"$old\"/version = \"$version\"/" \
            -e "s/==$old\"/==$version\"/" "$member/pyproject.toml"
    done
    sed -i "s/^__version__ = \"$old\"/__version__ = \"$version\"/" \
        client/inkling/__init__.py serving/inkling_serving/__init__.py \
        training/inkling_training/__init__.py loadtest/inkling_loadtest/__init__.py
    echo "release: $old is $version now; commit it, and tag it v$version"
fi

rm -rf dist
for member in "${members[@]}"; do
    # The source distribution first, and the wheel from it: it must be complete.
    "$uv" build --quiet --build-constraints requirements.lock --require-hashes \
        --out-dir dist "$member"
done
ls -l dist

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
tried=0
for python in "${pythons[@]}"; do
    # A version manager may have a command for a version that it does not have.
    if ! "python$python" --version >/dev/null 2>&1; then
        echo "release: python$python is not on this machine; NOTHING was tried with it" >&2
        continue
    fi
    scripts/try_release.sh "$python" "$version" "$place/$python"
    tried=$((tried + 1))
done
[ "$tried" -gt 0 ] || { echo "release: nothing was tried" >&2; exit 1; }
