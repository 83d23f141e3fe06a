#!/usr/bin/env bash
# Makes sure that NVRTC, the compiler of CUDA kernels, can be had for the tests of crates/compute, and prints the folder of its library.
# It needs neither a GPU nor a driver.
#
# It is NVIDIA's package, installed with pip into a virtual environment below the target folder, once:
#
#   REKINDLE_CUDA_LIBRARIES=$(scripts/nvrtc.sh) REKINDLE_REQUIRE_NVRTC=1 cargo test -p rekindle-compute --test nvrtc
set -euo pipefail
exec "$(dirname "$0")/pip-library.sh" nvrtc 13.5.37 nvidia-cuda-nvrtc 'libnvrtc.so.*'
