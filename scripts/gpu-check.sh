#!/usr/bin/env bash
# Checks and measures the CUDA device on a machine with a GPU, in under ten minutes, with a table at the end.
#
#   scripts/gpu-check.sh pack FOLDER             where Rust is: builds what the check needs and puts it into FOLDER
#   scripts/gpu-check.sh run FOLDER [PART …]     where the GPU is: runs it. Nothing is built there, and no Rust is needed.
#
# Parts: doctor, tests, sanitizer, nccl, jobs, bench, eager, compile. Without any, all but sanitizer, nccl and jobs. Logs and results go to
# $REKINDLE_GPU_RESULTS, or to FOLDER/results. NVRTC, cuBLASLt and NCCL are taken from REKINDLE_CUDA_LIBRARIES, the toolkit, or beside PyTorch; eager and compile need python3 with torch and
# transformers. Only the card as it is found is measured: no clock or limit is set.
set -uo pipefail
cd "$(dirname "$0")/.."

pack() {
  local folder=$1 release="${CARGO_TARGET_DIR:-target}/release"
  set -e
  mkdir -p "$folder/fixtures"
  cargo build --release --locked --bin rekindle
  cp "$release/rekindle" "$folder/rekindle"
  for crate in compute model; do
    built=$(cargo test --release --locked -p "rekindle-$crate" --test cuda --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')
    cp "$built" "$folder/test-$crate"
  done
  cargo build --release --locked -p rekindle-transport --example nccl_check
  cp "$release/examples/nccl_check" "$folder/nccl_check"
  built=$(cargo test --release --locked -p rekindle-transport --test nccl_real --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')
  cp "$built" "$folder/test-nccl"
  strip "$folder/rekindle" "$folder"/test-* "$folder/nccl_check"
  cp -r crates/model/tests/fixtures/llama-tied "$folder/fixtures/"
  if [ -d ../shared/fixtures/llama-gqa ]; then
    cp -r ../shared/fixtures/llama-gqa "$folder/fixtures/"
  else
    echo "pack: ../shared/fixtures/llama-gqa is not on this machine; that reference run is left out" >&2
  fi
  du -sh "$folder"
}

failures=0
# note NAME COMMAND…: runs a part for at most four minutes, says how it went.
note() {
  local name=$1 began=$SECONDS
  shift
  if [ "$(type -t "$1")" = function ]; then "$@"; else timeout "${LIMIT:-240}" "$@"; fi >"$results/$name.log" 2>&1
  local code=$?
  if [ $code = 0 ]; then
    echo "ok     $name ($((SECONDS - began)) s)"
  else
    echo "FAILED $name ($code, $((SECONDS - began)) s): the end of $results/$name.log:"
    tail -n "${TAIL:-25}" "$results/$name.log" | cut -c1-400
    failures=$((failures + 1))
  fi
}

tests() {
  export REKINDLE_REQUIRE_CUDA=1 REKINDLE_FIXTURES=$folder/fixtures
  # A process for each test: an error on the device is lost to its process only.
  for crate in compute model; do
    for test in $("$folder/test-$crate" --list --format terse | sed -n 's/: test$//p'); do
      note "$crate-$test" "$folder/test-$crate" --exact "$test" --nocapture
    done
  done
}

sanitizer() {
  export REKINDLE_REQUIRE_CUDA=1
  for tool in memcheck racecheck; do
    note "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$folder/test-compute" --exact bf16_conforms
  done
}

# Communicators of real processes, on as many devices as there are: meet, transfer, abort, split, shrink, grow, the transport, with times. Three
# ranks that share one device are more than NCCL promises, so two come first. The conformance suite wants a device for each of five ranks.
nccl() {
  for ranks in 2 3; do
    note "nccl-$ranks" "$folder/nccl_check" "$ranks"
    sed 's/^/       /' "$results/nccl-$ranks.log"
  done
  if [ "$(nvidia-smi --list-gpus | wc -l)" -ge 5 ]; then
    REKINDLE_REQUIRE_NCCL=1 note nccl-conformance "$folder/test-nccl" --nocapture --exact the_real_one_conforms
  else
    echo "not run: nccl-conformance, which wants 5 devices"
  fi
}

# A job of two stages whose trainers share the card ($DEVICE to try the part on another), by TCP and by NCCL: the same losses and digests.
jobs() {
  local device=${DEVICE:-cuda:0}
  seq 1 200000 >"$results/text.txt"
  for kind in tcp nccl; do
    cat >"$results/job-$kind.toml" <<TOML
[job]
name = "$kind"
output = "run-$kind"
[model]
hidden_size = 512
intermediate_size = 1024
num_hidden_layers = 4
num_attention_heads = 8
[data]
train = ["text.txt"]
seq_len = 256
[training]
steps = 12
global_batch = 8
micro_batch = 2
[optimizer]
lr = 3e-4
[parallelism]
pipeline = 2
transport = "$kind"
TOML
    rm -rf "$results/run-$kind"
    note "job-$kind" env REKINDLE_DEVICE="$device" "$folder/rekindle" run "$results/job-$kind.toml" --workers 2 --json
    grep -ho 'by_nccl=[0-9]*' "$results/run-$kind"/logs/*.log | sort | uniq -c
  done
  note jobs-alike alike
}

alike() {
  numbers tcp >"$results/tcp.txt" && numbers nccl >"$results/nccl.txt" && [ -s "$results/tcp.txt" ] &&
    diff "$results/tcp.txt" "$results/nccl.txt"
}

# What of a run's lines must not depend on how it was carried.
numbers() {
  python3 -c 'import json, sys
for line in open(sys.argv[1]):
    step = json.loads(line)
    print(step["step"], step["loss"], step["grad_norm"], step.get("state_digest"))' "$results/run-$1/metrics.jsonl"
}

# The shapes that are measured: model, sequence, micro-batch, micro-batches.
shapes="124m,1024,16,4 124m,4096,4,4 1.3b,1024,8,4 1.3b,4096,2,4"

# ours MODEL SEQ MICRO COUNT ARGUMENTS…
ours() {
  timeout "${LIMIT:-240}" "$folder/rekindle" -o json bench train --device cuda:0 --model "$1" --seq "$2" --micro-batch "$3" --micro-batches "$4" --steps 5 "${@:5}"
}

bench() {
  for shape in $shapes; do
    IFS=, read -r model seq micro count <<<"$shape"
    # A capture of 16 GiB needs a step that is long enough for the link.
    capture=; [ "$model,$seq" = 1.3b,1024 ] && capture=--capture
    note "bench-$model-$seq-exact" ours "$model" "$seq" "$micro" "$count" --dtype bf16 --kernels $capture
    [ "$seq" = 1024 ] && note "bench-$model-$seq-fast" ours "$model" "$seq" "$micro" "$count" --dtype bf16 --numerics fast
  done
  note bench-124m-1024-f32 ours 124m 1024 8 1 --kernels
}

# torch MODE: PyTorch for the same shapes; compiled, for those whose compilation fits the time.
torch() {
  for shape in $shapes; do
    IFS=, read -r model seq micro count <<<"$shape"
    [ "$1" = compile ] && [ "$seq" != 1024 ] && continue
    note "peer-$model-$seq-$1" python3 scripts/torch_train_cuda.py --model "$model" --seq "$seq" --micro-batch "$micro" \
      --micro-batches "$count" --steps 5 $([ "$1" = compile ] && echo --compile)
  done
}

table() {
  python3 - "$results" <<'PYTHON'
import glob, json, os, sys
rows = []
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.log"))):
    name = os.path.basename(path)[:-4]
    if not name.startswith(("bench", "peer")):
        continue
    text = open(path).read()
    try:
        data = json.loads(text[text.index("{"):text.rindex("}") + 1])
    except ValueError:
        continue
    low, high = data["step_seconds_range"]
    captured = data.get("captured")
    rows.append((name, data["tokens_per_second"], data["step_seconds"] * 1e3, low * 1e3, high * 1e3, data.get("mfu"), data["loss"]))
    if captured:
        rate = captured["bytes"] / captured["seconds"] / 1e9
        text = f"    captures: step %+.2f %%, {rate:.1f} of {captured['alone_bytes_per_second'] / 1e9:.1f} GB/s" % (
            (captured["step_seconds"] / data["step_seconds"] - 1) * 100)
        rows.append((text, None, captured["seconds"] * 1e3, None, None, None, None))
    for kernel in data.get("kernels", [])[:17]:
        rows.append(("    %(name)s x%(launches)d" % kernel, None, kernel["seconds"] * 1e3, None, None, None, None))
for name, rate, median, low, high, mfu, loss in rows:
    if rate is None:
        print(f"{name:40} {'':10} {median:9.2f} ms")
    else:
        share = f"MFU {mfu * 100:5.1f} %" if mfu else ""
        print(f"{name:40} {rate:10.0f} {median:9.2f} ms ({low:.2f} to {high:.2f}) {share} loss {loss:.4f}")
PYTHON
}

run() {
  folder=$(realpath "$1")
  shift
  results="${REKINDLE_GPU_RESULTS:-$folder/results}"
  mkdir -p "$results"
  beside=$(python3 -c 'import nvidia, os; print(":".join(os.path.join(p, d, "lib") for p in nvidia.__path__ for d in os.listdir(p)))' 2>/dev/null || true)
  export REKINDLE_CUDA_LIBRARIES="${REKINDLE_CUDA_LIBRARIES:+$REKINDLE_CUDA_LIBRARIES:}/usr/local/cuda/lib64:$beside"
  chmod +x "$folder/rekindle" "$folder/nccl_check" "$folder"/test-*
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$results/card.txt"
  for part in "${@:-doctor tests bench eager compile}"; do
    for each in $part; do
      case $each in
        doctor) note doctor "$folder/rekindle" doctor ;;
        tests | sanitizer | nccl | jobs | bench) "$each" ;;
        eager | compile) torch "$each" ;;
        *) echo "unknown part $each" >&2; exit 2 ;;
      esac
    done
  done
  table
  [ "$failures" = 0 ] && echo "all parts passed" || { echo "$failures failed"; exit 1; }
}

case "${1:-}" in
  pack) pack "${2:?a folder to put things into}" ;;
  run) shift; run "${@:?a folder that was packed}" ;;
  *) sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
