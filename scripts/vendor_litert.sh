#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copies LiteRT.js from npm into the page: sh scripts/vendor_litert.sh VERSION
#
# The page gets one of the package's four builds: without threads, which would need
# headers that isolate the page, and without relaxed SIMD, which some browsers lack and
# which may round otherwise than the server. The only change to the code is the address of
# the second module, because a browser knows no names of packages.
set -eu

version=${1:?the version is missing: sh scripts/vendor_litert.sh 2.5.3}
target=$(cd "$(dirname "$0")/../serving/inkling_serving/page/litert" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

for name in core wasm-utils; do
    npm pack --silent "@litertjs/$name@$version" > /dev/null
    mkdir "$name"
    tar -xzf "litertjs-$name-$version.tgz" -C "$name" --strip-components 1
done

head_of() {
    echo "// SPDX-License-Identifier: Apache-2.0"
    echo "// @litertjs/$1 $version, Copyright Google LLC; see README.md beside this file."
}
rm -f "$target"/*.js "$target"/*.gz
{ head_of core; sed 's#"@litertjs/wasm-utils"#"./wasm-utils.js"#; /sourceMappingURL/d' core/dist/index.js; } > "$target/core.js"
{ head_of wasm-utils; sed '/sourceMappingURL/d' wasm-utils/dist/index.js; } > "$target/wasm-utils.js"
{ head_of core; sed 's/[ \t]*$//' core/wasm/litert_wasm_compat_internal.js; } > "$target/litert_wasm_compat_internal.js"
gzip -9 -n -c core/wasm/litert_wasm_compat_internal.wasm > "$target/litert_wasm_compat_internal.wasm.gz"
sed -i "s/^Version: .*/Version: $version/" "$target/README.md"
ls -l "$target"
