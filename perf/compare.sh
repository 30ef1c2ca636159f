#!/usr/bin/env bash
# Puts the same load on the null broker, on Logmill and on other brokers in turns, and prints ratios with their spread.
#   perf/compare.sh BROKER_BINARY [OUTPUT_FOLDER]
# Environment: BENCH (the harness's binary), WORKLOADS (files, separated by blanks), ROUNDS, OTHERS (further sides,
# separated by blanks, such as "kafka=127.0.0.1:9092,pid=1234"), COMPARE_OPTIONS (further options of
# `logmill-bench compare`), BROKER_SETTINGS (settings of the broker, separated by blanks).
set -euo pipefail

broker=${1:?usage: perf/compare.sh BROKER_BINARY [OUTPUT_FOLDER]}
output=${2:-perf-results}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
read -r -a workloads <<< "${WORKLOADS:-$root/bench-harness/workloads/produce-1k.toml $root/bench-harness/workloads/fetch-hot.toml}"
read -r -a others <<< "${OTHERS:-}"
read -r -a options <<< "${COMPARE_OPTIONS:-}"
read -r -a settings <<< "${BROKER_SETTINGS:-}"
for binary in "$broker" "$bench"; do
    [ -x "$binary" ] || { echo "compare.sh: $binary is not there; build it first" >&2; exit 2; }
done

work=$(mktemp -d "${TMPDIR:-/tmp}/logmill-compare.XXXXXX")
broker_pid=
cleanup() {
    if [ -n "$broker_pid" ]; then
        kill -CONT "$broker_pid" 2>/dev/null || true
        kill "$broker_pid" 2>/dev/null || true
        wait "$broker_pid" 2>/dev/null || true
    fi
    rm -rf "$work/data"
}
trap cleanup EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) controller_port=$(free_port)
"$broker" serve --set "log.dirs=$work/data" \
    --set "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port" \
    --set "advertised.listeners=PLAINTEXT://127.0.0.1:$port" \
    --set "controller.quorum.voters=1@127.0.0.1:$controller_port" \
    "${settings[@]/#/--set=}" >"$work/broker.log" 2>&1 &
broker_pid=$!
for _ in $(seq 100); do
    kill -0 "$broker_pid" 2>/dev/null || { echo "compare.sh: the broker ended:" >&2; tail -5 "$work/broker.log" >&2; exit 1; }
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.1
done

for workload in "${workloads[@]}"; do
    name=$(basename "$workload" | sed 's/\.[a-z]*$//')
    # An invalid comparison is kept and shown as such; the next one is done all the same.
    "$bench" compare "$workload" --rounds "${ROUNDS:-3}" --with-null-broker \
        --side "logmill=127.0.0.1:$port,pid=$broker_pid,note=${DURABILITY:-its default: see its configuration}" \
        "${others[@]/#/--side=}" "${options[@]}" --output "$output/$name" || echo "compare.sh: $name: see above" >&2
done
echo "results: $output"
