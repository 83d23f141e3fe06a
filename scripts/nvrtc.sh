#!/usr/bin/env bash
# Makes sure that NVRTC, the compiler of CUDA kernels, can be had for the tests of crates/compute, and prints the folder of its library.
# It needs neither a GPU nor a driver.
#
# It is NVIDIA's package, installed with pip into a virtual environment below the target folder, once:
#
#   REKINDLE_CUDA_LIBRARIES=$(scripts/nvrtc.sh) REKINDLE_REQUIRE_NVRTC=1 cargo test -p rekindle-compute --test nvrtc
set -euo pipefail
cd "$(dirname "$0")/.."

version=13.5.37
folder="${CARGO_TARGET_DIR:-target}/nvrtc-$version"
library() { find "$folder" -name 'libnvrtc.so.*' 2>/dev/null | head -n 1; }
if [ ! -e "$folder/complete" ] || [ -z "$(library)" ]; then
  command -v python3 >/dev/null || { echo "nvrtc: python3 is missing; kernels can't be compiled without it" >&2; exit 1; }
  # What an interrupted installation left would not be completed.
  rm -rf "$folder"
  python3 -m venv "$folder" >&2
  "$folder/bin/pip" install --quiet --disable-pip-version-check "nvidia-cuda-nvrtc==$version" >&2
  [ -n "$(library)" ] || { echo "nvrtc: the package holds no libnvrtc.so" >&2; exit 1; }
  touch "$folder/complete"
fi
cd "$(dirname "$(library)")"
pwd
