#!/usr/bin/env bash
# Puts the same load on the null broker and on a broker in turns, and prints both with the ratio.
#   perf/compare.sh BROKER_BINARY [OUTPUT_FOLDER]
# Environment: BENCH (the harness's binary), ROUNDS, SECONDS_EACH, WARM_UP, PARTITIONS, DURABILITY, and
# PRODUCE_OPTIONS, the load itself.
set -euo pipefail

broker=${1:?usage: perf/compare.sh BROKER_BINARY [OUTPUT_FOLDER]}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-8} warm_up=${WARM_UP:-2} partitions=${PARTITIONS:-6}
durability=${DURABILITY:-the broker\'s default: see its configuration}
read -r -a load <<< "${PRODUCE_OPTIONS:---record-size 1024 --batch-size 16384 --acks all}"
for binary in "$broker" "$bench"; do
    [ -x "$binary" ] || { echo "compare.sh: $binary is not there; build it first" >&2; exit 2; }
done
command -v python3 >/dev/null || { echo "compare.sh: python3 is needed for the summary; install it" >&2; exit 2; }

work=$(mktemp -d)
output=${2:-$work/results}
mkdir -p "$output"
started=()
cleanup() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ "$output" = "$work/results" ]; then rm -rf "$work/data"; else rm -rf "$work"; fi
}
trap cleanup EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
wait_for() { # PORT PID NAME
    for _ in $(seq 100); do
        kill -0 "$2" 2>/dev/null || { echo "compare.sh: $3 ended; see $work/$3.log:" >&2; tail -5 "$work/$3.log" >&2; exit 1; }
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.1
    done
    echo "compare.sh: $3 does not listen on port $1 after 10 s; see $work/$3.log" >&2
    exit 1
}

null_port=$(free_port)
"$bench" null-broker --listen "127.0.0.1:$null_port" >"$work/null.log" 2>&1 &
null_pid=$!; started+=("$null_pid")
wait_for "$null_port" "$null_pid" null

broker_port=$(free_port) controller_port=$(free_port)
"$broker" serve --set "log.dirs=$work/data" \
    --set "listeners=PLAINTEXT://127.0.0.1:$broker_port,CONTROLLER://127.0.0.1:$controller_port" \
    --set "advertised.listeners=PLAINTEXT://127.0.0.1:$broker_port" \
    --set "controller.quorum.voters=1@127.0.0.1:$controller_port" >"$work/broker.log" 2>&1 &
broker_pid=$!; started+=("$broker_pid")
wait_for "$broker_port" "$broker_pid" broker

measure() { # NAME PORT PID ROUND DURABILITY
    local prefix="$output/$4-$1" fixed=(--bootstrap-server "127.0.0.1:$2" --topic "compare-$4" --pid "$3" --format json)
    # An invalid run is kept and shown as such, so its exit status does not end the comparison.
    "$bench" produce "${fixed[@]}" --partitions "$partitions" --durability-note "$5" --duration "$seconds" \
        --warm-up "$warm_up" "${load[@]}" --output "$prefix-produce.json" >/dev/null || true
    "$bench" fetch "${fixed[@]}" --durability-note "$5" --from-beginning \
        --output "$prefix-fetch.json" >/dev/null || true
}
for round in $(seq -w "$rounds"); do
    measure null "$null_port" "$null_pid" "$round" "nothing is stored"
    measure broker "$broker_port" "$broker_pid" "$round" "$durability"
done

python3 - "$output" <<'PYTHON' | tee "$output/summary.txt"
import glob, json, os, statistics, sys
folder = sys.argv[1]
figures = [("MB/s", lambda r: r["megabytes_per_second"]),
           ("CPU-s/GB", lambda r: r["broker"]["cpu_seconds_per_gb"]),
           ("CPU-us/record", lambda r: r["broker"]["cpu_us_per_record"]),
           ("p99 ms", lambda r: r["latency"]["p99_ns"] / 1e6)]
for kind in ("produce", "fetch"):
    runs = {}
    for name in ("null", "broker"):
        paths = sorted(glob.glob(os.path.join(folder, f"*-{name}-{kind}.json")))
        runs[name] = [json.load(open(path)) for path in paths]
        for path, run in zip(paths, runs[name]):
            if run["invalid"]:
                print(f"INVALID {os.path.basename(path)}: {'; '.join(run['invalid'])}")
            elif run["seconds"] < 1:
                print(f"LEFT OUT {os.path.basename(path)}: {run['seconds']:.2f} s are too short to measure")
        runs[name] = [run for run in runs[name] if not run["invalid"] and run["seconds"] >= 1]
    if not all(runs.values()):
        print(f"{kind}: no valid run of each; nothing to compare")
        continue
    for label, figure in figures:
        values = {name: [figure(run) for run in found] for name, found in runs.items()}
        median = {name: statistics.median(found) for name, found in values.items()}
        spread = lambda name: f"{median[name]:9.3f} ({min(values[name]):.3f}-{max(values[name]):.3f})"
        ratio = f"{median['broker'] / median['null']:.2f}" if median["null"] else "-"
        print(f"{kind:8}{label:14} null {spread('null'):32} broker {spread('broker'):32} ratio {ratio}")
PYTHON
echo "results: $output"
