#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copies Swagger UI from npm into the page /docs: sh scripts/vendor_swagger_ui.sh VERSION
#
# Nothing is changed; the script and the style sheet are compressed, as they are sent.
set -eu

version=${1:?the version is missing: sh scripts/vendor_swagger_ui.sh 5.35.0}
target=$(cd "$(dirname "$0")/../serving/inkling_serving/page/swagger-ui" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm pack --silent "swagger-ui-dist@$version" > /dev/null
tar -xzf "swagger-ui-dist-$version.tgz" --strip-components 1
for name in swagger-ui-bundle.js swagger-ui.css; do
    gzip -9 -n -c "$name" > "$target/$name.gz"
done
cp LICENSE NOTICE swagger-ui-bundle.js.LICENSE.txt "$target"
sed -i "s/^Version: .*/Version: $version/" "$target/README.md"
ls -l "$target"
