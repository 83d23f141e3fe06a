#!/usr/bin/env bash
# Installs one of NVIDIA's packages with pip into a virtual environment below the target folder, once, and prints the folder of its library.
#
#   scripts/pip-library.sh NAME VERSION PACKAGE PATTERN      a name for messages; the library's file matches PATTERN
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1 version=$2 package=$3 pattern=$4
folder="${CARGO_TARGET_DIR:-target}/$name-$version"
library() { find "$folder" -name "$pattern" 2>/dev/null | head -n 1; }
if [ ! -e "$folder/complete" ] || [ -z "$(library)" ]; then
  command -v python3 >/dev/null || { echo "$name: python3 is missing; $package can't be fetched without it" >&2; exit 1; }
  # What an interrupted installation left would not be completed.
  rm -rf "$folder"
  python3 -m venv "$folder" >&2
  "$folder/bin/pip" install --quiet --disable-pip-version-check "$package==$version" >&2
  [ -n "$(library)" ] || { echo "$name: the package holds no $pattern" >&2; exit 1; }
  touch "$folder/complete"
fi
cd "$(dirname "$(library)")"
pwd
