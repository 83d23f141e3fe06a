#!/usr/bin/env bash
# Makes sure that NCCL can be had for the tests of crates/compute, and prints the folder of its library. It needs neither a GPU nor a
# driver, and takes 300 MB to fetch, which is why .ci/run leaves it out.
#
# It is NVIDIA's package, installed with pip into a virtual environment below the target folder, once:
#
#   REKINDLE_CUDA_LIBRARIES=$(scripts/nccl.sh) REKINDLE_REQUIRE_NCCL=1 cargo test -p rekindle-compute --test nccl
set -euo pipefail
exec "$(dirname "$0")/pip-library.sh" nccl 2.32.3 nvidia-nccl-cu13 libnccl.so.2
