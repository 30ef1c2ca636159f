#!/usr/bin/env bash
# Where a broker's CPU time goes under load, as text: perf record on its process while logmill-bench produces.
#   perf/profile.sh BROKER_BINARY [REPORT_FILE]
# Environment: BENCH, SECONDS_EACH, PARTITIONS, WORKLOAD (keys of workloads, such as "record_size=100 acks=1").
set -euo pipefail

broker=${1:?usage: perf/profile.sh BROKER_BINARY [REPORT_FILE]}
report=${2:-profile.txt}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
seconds=${SECONDS_EACH:-8}
read -r -a load <<< "${WORKLOAD:-record_size=1024 batch_size=16384 acks=all}"
if ! command -v perf >/dev/null || ! perf record -q -o /dev/null -- true 2>/dev/null; then
    echo "profile.sh: SKIPPED: perf is missing or may not record here; install it, or lower kernel.perf_event_paranoid"
    exit 0
fi
for binary in "$broker" "$bench"; do
    [ -x "$binary" ] || { echo "profile.sh: $binary is not there; build it first" >&2; exit 2; }
done
work=$(mktemp -d)
broker_pid=
cleanup() {
    if [ -n "$broker_pid" ]; then kill "$broker_pid" 2>/dev/null || true; wait "$broker_pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) controller_port=$(free_port)
"$broker" serve --set "log.dirs=$work/data" \
    --set "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port" \
    --set "advertised.listeners=PLAINTEXT://127.0.0.1:$port" \
    --set "controller.quorum.voters=1@127.0.0.1:$controller_port" >"$work/broker.log" 2>&1 &
broker_pid=$!
for _ in $(seq 100); do
    kill -0 "$broker_pid" 2>/dev/null || { tail -5 "$work/broker.log" >&2; exit 1; }
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.1
done
perf record -q -g -F 499 -p "$broker_pid" -o "$work/perf.data" -- sleep "$seconds" &
recorder=$!
"$bench" run --bootstrap-server "127.0.0.1:$port" --set "partitions=${PARTITIONS:-6}" --set "duration=$seconds" \
    --pid "$broker_pid" "${load[@]/#/--set=}" | tee "$report"
wait "$recorder"
perf report -i "$work/perf.data" --stdio --no-children -g none --percent-limit 0.3 2>/dev/null >>"$report"
echo "report: $report"
