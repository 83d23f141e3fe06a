#!/usr/bin/env python3
"""What keeping state in shared memory costs, and how fast a job goes on from there.

    scripts/measure_memory_recovery.py overhead [--rounds 7] [--steps 60] [--shadow | --parity [--every 10] [--workers 3]]
    scripts/measure_memory_recovery.py losses   [--losses 20] [--victim trainer|worker]

Runs target/release/rekindle on jobs of its own in a temporary folder; prints tables for docs/measurements/. `overhead` alternates runs with
and without `recovery.sources = ["local"]`, or with `shadow` or `parity` beside it and without; `losses` kills with SIGKILL, and takes the time from just before the signal to when the first
step of the next epoch is seen in metrics.jsonl, which is read every millisecond.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
REKINDLE = ROOT / "target/release/rekindle"
PATIENCE = 120


def job(folder, name, steps, sources, size, stages, every=10):
    hidden, layers = size
    path = folder / f"{name}.toml"
    path.write_text(f"""
[job]
name = "{name}"
output = "{folder / name}"
[model]
hidden_size = {hidden}
intermediate_size = {hidden * 3}
num_hidden_layers = {layers}
num_attention_heads = {hidden // 32}
[data]
train = ["{ROOT}/ARCHITECTURE.md"]
seq_len = 128
[training]
steps = {steps}
global_batch = 8
micro_batch = 2
[optimizer]
lr = 3e-4
[parallelism]
pipeline = {stages}
[recovery]
sources = {json.dumps(sources)}
max_restarts = 1000
[recovery.parity]
every = {every}
""")
    return path


def lines(path):
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def spread(values, unit=1000):
    low, mid, high = min(values), statistics.median(values), max(values)
    return f"{mid * unit:.1f} ({low * unit:.1f} to {high * unit:.1f})"


def overhead(options):
    print("| model | state, MB | step without, ms (spread) | step with, ms (spread) | difference of medians |")
    print("|---|---|---|---|---|")
    # An exchange falls on a few of the steps, which a median doesn't see.
    middle = statistics.mean if options.parity else statistics.median
    for size in [(128, 4), (384, 8)]:
        kinds, workers = {"without": [], "with": ["local"]}, 1
        if options.shadow:
            kinds, workers = {"without": ["local"], "with": ["local", "shadow"]}, 2
        if options.parity:
            kinds, workers = {"without": ["local"], "with": ["local", "parity"]}, options.workers
        medians = {kind: [] for kind in kinds}
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for number in range(options.rounds):
                for kind in sorted(kinds, reverse=number % 2 == 0):
                    name = f"{kind}-{number}"
                    path = job(folder, name, options.steps, kinds[kind], size, workers, options.every)
                    command = [REKINDLE, "run", path, "--workers", str(workers)]
                    subprocess.run(command, check=True, capture_output=True)
                    steps = [line["step_seconds"] for line in lines(folder / name / "metrics.jsonl")[5:]]
                    medians[kind].append(middle(steps))
        without, with_ = medians["without"], medians["with"]
        change = statistics.median(with_) / statistics.median(without) - 1
        hidden, layers = size
        parameters = layers * (4 * hidden * hidden + 9 * hidden * hidden) + 2 * 256 * hidden
        print(
            f"| hidden {hidden}, {layers} layers | {12 * parameters / 1e6:.1f} | {spread(without)} | {spread(with_)} | {change:+.2%} |"
        )


def processes(parent):
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue
        if int(stat[1]) == parent:
            found.append((int(entry.name), command))
    return found


def victim(run, kind, number):
    workers = sorted(pid for pid, command in processes(run.pid) if "worker" in command)
    worker = workers[number % len(workers)]
    if kind == "worker":
        return worker
    return next(pid for pid, command in processes(worker) if "trainer" in command)


def losses(options):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        path = job(folder, "losses", 1_000_000, ["local"], (128, 4), 4)
        metrics = folder / "losses/metrics.jsonl"
        log = open(folder / "log", "wb")
        run = subprocess.Popen([REKINDLE, "run", path, "--workers", "4"], stdout=log, stderr=log)
        taken, steps = [], []
        try:
            for number in range(options.losses):
                by = time.monotonic() + PATIENCE
                while len([line for line in lines(metrics) if line["epoch"] == number + 1]) < 20:
                    if time.monotonic() > by:
                        sys.exit(f"no steps after loss {number}: {(folder / 'log').read_text()[-2000:]}")
                    time.sleep(0.05)
                pid = victim(run, options.victim, number)
                size = metrics.stat().st_size
                began = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                with open(metrics) as reader:
                    reader.seek(size)
                    text = ""
                    while f'"epoch":{number + 2}' not in text:
                        if time.monotonic() > began + PATIENCE:
                            sys.exit(f"loss {number} was not mended: {(folder / 'log').read_text()[-2000:]}")
                        time.sleep(0.001)
                        text += reader.read()
                taken.append(time.monotonic() - began)
            recorded = lines(metrics)
            steps = [line["step_seconds"] for line in recorded if line["step"] > 5]
        finally:
            run.send_signal(signal.SIGINT)
            run.wait()
        events = lines(folder / "losses/events.jsonl")
        closed = [event["detail"] for event in events if event["kind"] == "incident.closed"]
        again = len(recorded) - len({line["step"] for line in recorded})
        print(f"| killed | losses | SIGKILL to the next committed step, ms (spread) | a step, ms | steps run again | sources |")
        print("|---|---|---|---|---|---|")
        memory = sum("in memory" in text for text in closed)
        print(
            f"| {options.victim} | {len(taken)} | {spread(taken)} | {spread(steps)} | {again} | memory: {memory} of {len(closed)} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    mode = modes.add_parser("overhead")
    mode.add_argument("--rounds", type=int, default=7)
    mode.add_argument("--steps", type=int, default=60)
    mode.add_argument("--shadow", action="store_true", help="shadow beside local, on two workers")
    mode.add_argument("--parity", action="store_true", help="parity beside local, on workers of a group")
    mode.add_argument("--every", type=int, default=10, help="steps between exchanges")
    mode.add_argument("--workers", type=int, default=3, help="stages, each on a worker, with --parity")
    mode.set_defaults(run=overhead)
    mode = modes.add_parser("losses")
    mode.add_argument("--losses", type=int, default=20)
    mode.add_argument("--victim", choices=["trainer", "worker"], default="trainer")
    mode.set_defaults(run=losses)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
