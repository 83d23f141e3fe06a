#!/usr/bin/env bash
# The dependency rules that keep the pure crates pure and heavy libraries in one place.
#
# 1. A pure crate's normal dependencies are exactly within the list below (closed set; adding an edge means editing this file).
# 2. Pure sources name no clock, thread, socket, file, process, async runtime or unordered map.
# 3. A heavy library is a direct dependency of the crates listed for it and of nobody else.
#
# Reads `cargo metadata` for the direct edges. Prints every violation, then exits 1 if there was one.
set -euo pipefail
cd "$(dirname "$0")/.."

common="serde serde_json thiserror toml strsim"
declare -A pure=(
  [rekindle-types]="$common xxhash-rust"
  [rekindle-plan]="$common rekindle-types"
  [rekindle-coordinator-core]="$common rekindle-types rekindle-plan"
  [rekindle-worker-core]="$common rekindle-types rekindle-plan"
)
declare -A only_in=(
  [clap]="rekindle-cli"
  [indicatif]="rekindle-cli"
  [cudarc]="rekindle-compute"
  [gemm]="rekindle-compute"
  [libloading]="rekindle-compute"
  [parquet]="rekindle-data"
  [tokenizers]="rekindle-data"
  [prost]="rekindle-proto"
  [protox]="rekindle-proto"
  [redb]="rekindle-store"
  [safetensors]="rekindle-checkpoint"
  [object_store]="rekindle-checkpoint"
  [quick-xml]="rekindle-checkpoint"
  [reqwest]="rekindle-checkpoint"
  [rustls]="rekindle-checkpoint"
)

failures=0
fail() { echo "check-pure: $*" >&2; failures=$((failures + 1)); }

# One line per direct normal dependency: "crate dependency". Package objects are split at their names; within a package,
# "kind":null marks a normal dependency.
edges() {
  cargo metadata --no-deps --format-version 1 --locked | awk '
    BEGIN { RS = "{\"name\":\"" }
    {
      name = $0; sub(/".*/, "", name)
      if ($0 ~ /^[^"]*","version":"/) package = name
      else if (package != "" && $0 ~ /"kind":null/ && $0 ~ /"req":/) print package, name
    }'
}

all=$(edges)
[ -n "$all" ] || { echo "check-pure: cargo metadata gave no edges; its layout may have changed" >&2; exit 1; }

while read -r crate dependency; do
  if [ -n "${pure[$crate]:-}" ] && [[ " ${pure[$crate]} " != *" $dependency "* ]]; then
    fail "$crate depends on $dependency, which is not in its list (${pure[$crate]})"
  fi
  if [ -n "${only_in[$dependency]:-}" ] && [[ " ${only_in[$dependency]} " != *" $crate "* ]]; then
    fail "$crate depends on $dependency, which belongs to ${only_in[$dependency]}"
  fi
done <<<"$all"

for crate in "${!pure[@]}"; do
  # At least one edge must have been seen: a check that understands nothing must not pass.
  grep -q "^$crate " <<<"$all" || fail "no edges found for $crate"
  forbidden='std::(time|thread|net|fs|process|env|io)\b|\b(Instant|SystemTime|HashMap|HashSet|tokio|rand)::|collections::\{?[^;]*Hash(Map|Set)'
  if hits=$(grep -rnE "$forbidden" "crates/${crate#rekindle-}/src" --include='*.rs' | grep -vE '^[^:]+:[0-9]+:\s*//'); then
    fail "$crate names something impure:"$'\n'"$hits"
  fi
done

[ "$failures" -eq 0 ] || { echo "check-pure: $failures violation(s)" >&2; exit 1; }
echo "check-pure: ${#pure[@]} pure crates, $(wc -l <<<"$all") direct edges, all allowed"
