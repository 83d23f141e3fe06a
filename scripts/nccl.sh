#!/usr/bin/env bash
# Makes sure that NCCL can be had for the tests of crates/compute, and prints the folder of its library. It needs neither a GPU nor a
# driver, and takes 300 MB to fetch, which is why .ci/run leaves it out.
#
# It is NVIDIA's package, installed with pip into a virtual environment below the target folder, once:
#
#   REKINDLE_CUDA_LIBRARIES=$(scripts/nccl.sh) REKINDLE_REQUIRE_NCCL=1 cargo test -p rekindle-compute --test nccl
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.32.3
folder="${CARGO_TARGET_DIR:-target}/nccl-$version"
library() { find "$folder" -name 'libnccl.so.2' 2>/dev/null | head -n 1; }
if [ ! -e "$folder/complete" ] || [ -z "$(library)" ]; then
  command -v python3 >/dev/null || { echo "nccl: python3 is missing; NCCL can't be fetched without it" >&2; exit 1; }
  # What an interrupted installation left would not be completed.
  rm -rf "$folder"
  python3 -m venv "$folder" >&2
  "$folder/bin/pip" install --quiet --disable-pip-version-check "nvidia-nccl-cu13==$version" >&2
  [ -n "$(library)" ] || { echo "nccl: the package holds no libnccl.so.2" >&2; exit 1; }
  touch "$folder/complete"
fi
cd "$(dirname "$(library)")"
pwd
