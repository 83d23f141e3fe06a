#!/usr/bin/env bash
# Makes sure that a server that speaks S3 can be had for the tests of crates/checkpoint, and prints the path of its executable.
#
# It is moto's, installed with pip into a virtual environment below the target folder, once; the tests start and end it themselves:
#
#   REKINDLE_MOTO_SERVER=$(scripts/s3-test-server.sh) REKINDLE_REQUIRE_S3=1 cargo test -p rekindle-checkpoint
set -euo pipefail
cd "$(dirname "$0")/.."

version=5.2.5
folder="${CARGO_TARGET_DIR:-target}/s3-test-server-$version"
if ! "$folder/bin/moto_server" --help >/dev/null 2>&1; then
  command -v python3 >/dev/null || { echo "s3-test-server: python3 is missing; the S3 tests can't run without it" >&2; exit 1; }
  # What an interrupted installation left would not be completed.
  rm -rf "$folder"
  python3 -m venv "$folder" >&2
  "$folder/bin/pip" install --quiet --disable-pip-version-check "moto[s3,server]==$version" >&2
  "$folder/bin/moto_server" --help >/dev/null
fi
echo "$(cd "$folder/bin" && pwd)/moto_server"
