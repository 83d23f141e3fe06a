#!/usr/bin/env bash
# Goodput under one failure a minute: 4 workers train while a worker or a trainer is killed (SIGKILL) every minute, and `rekindle chaos` says
# where every worker-second went. Usage: scripts/measure_goodput.sh [MINUTES] [STEPS]; docs/measurements/goodput.md has results.
# As many steps as take about that many minutes; nothing else should run on the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-5} steps=${2:-1000}

cargo build --release --locked --quiet
rekindle=target/release/rekindle
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/job.toml" <<JOB
[job]
name = "goodput"
seed = 1
output = "run"

[model]
hidden_size = 160
intermediate_size = 448
num_hidden_layers = 4
num_attention_heads = 5
num_key_value_heads = 5

[data]
train = ["$PWD/docs/*.md", "$PWD/*.md"]
tokenizer = "bytes"
seq_len = 128

[training]
steps = $steps
global_batch = 48
micro_batch = 2

[optimizer]
lr = 3e-3

[parallelism]
pipeline = 4

[checkpoint]
every = 5
JOB

# In the middle of each minute, by turns.
for ((minute = 0; minute < minutes; minute++)); do
  kinds=(kill-worker kill-trainer)
  echo "$((60 * minute + 30)),${kinds[minute % 2]}"
done >"$folder/schedule.csv"

"$rekindle" run "$folder/job.toml" --workers 4 --allow-chaos >/dev/null 2>"$folder/run.log" &
run=$!
until [ -s "$folder/run/metrics.jsonl" ]; do
  kill -0 "$run" || { cat "$folder/run.log" >&2; exit 1; }
  sleep 0.1
done
"$rekindle" chaos run --run "$folder/run" --seed 1 --schedule "$folder/schedule.csv" --until-job goodput-1
wait "$run"
echo
grep -h '"incident.closed"' "$folder/run/events.jsonl" | sed 's/.*"detail":"\([^"]*\)".*/\1/'
echo
python3 - "$folder/run/metrics.jsonl" <<'PYTHON'
import json, statistics, sys
steps = [json.loads(line)["step_seconds"] for line in open(sys.argv[1])]
print(f"median step {statistics.median(steps):.3f} s, {len(steps)} lines")
PYTHON
