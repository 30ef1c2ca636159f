#!/usr/bin/env bash
# Tails where a broker should run: at half of the rate from which on its latency goes up (the knee).
#   knees  the knee of Logmill (durable) and of Apache Kafka, each alone
#   half   both, and Kafka with flush.messages=1, in turns at half of Kafka's knee
#   soak   Logmill for ten minutes at half of its own knee; the disk alone before and after it
#   cold   producers and consumers beside a reader of old data, and without one, in turns
#   perf/knee.sh BROKER_BINARY OUTPUT_FOLDER
# Environment: KAFKA_JARS (a folder with the jars of Apache Kafka), BENCH, CASES (of those above), ROUNDS (5), SOAK_SECONDS (600),
# SECONDS_EACH (20: of a round), KNEE_KAFKA and KNEE (records per second; instead of looking for them), SETTINGS (of the broker),
# P99_LIMIT_MS (20: a rate with a longer p99 is beyond the knee).
set -euo pipefail

broker=${1:?usage: perf/knee.sh BROKER_BINARY OUTPUT_FOLDER}
output=${2:?usage: perf/knee.sh BROKER_BINARY OUTPUT_FOLDER}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-20}
read -r -a cases <<< "${CASES:-knees half soak cold}"
read -r -a settings <<< "${SETTINGS-logmill.memory.bytes=2147483648}"
: "${KAFKA_JARS:?needs the folder with the jars of Apache Kafka}"
. "$root/perf/sides.sh"
needs_binaries "$broker" "$bench"
mkdir -p "$output"
rate_file=$root/bench-harness/workloads/rate-1k.toml
limit_ms=${P99_LIMIT_MS:-20}
# Broker and client share the cores; so the client's threads go first, as if they had a host of their own.
load=(--set realtime=true --set warm_up=4 --set "duration=$((seconds + 4))" --quiet)

sweep() { knee_of "$1" 8000 "$limit_ms" "$output/knees.txt"; } # SIDE

knees() {
    start_broker "$work/knee" "${settings[@]}"
    knee=$(sweep "logmill=127.0.0.1:$port,pid=$broker_pid,note=on disk")
    stop "$broker_pid"
    rm -rf "${work:?}/knee"
    start_kafka "$work/kafka-knee"
    # Twice: the first time warms it up.
    sweep "kafka=127.0.0.1:$kafka_port,pid=$kafka_pid,note=in the page cache" >/dev/null
    knee_kafka=$(sweep "kafka=127.0.0.1:$kafka_port,pid=$kafka_pid,note=in the page cache")
    stop "$kafka_pid"
    rm -rf "${work:?}/kafka-knee"
    echo "knees: logmill ${knee:-none} records/s, kafka ${knee_kafka:-none} records/s" | tee -a "$output/knees.txt"
}

half() {
    local rate=$((knee_kafka / 2)) sides=()
    start_broker "$work/half" "${settings[@]}"
    sides+=(--side "logmill=127.0.0.1:$port,pid=$broker_pid,note=on disk")
    start_kafka "$work/kafka"
    sides+=(--side "kafka=127.0.0.1:$kafka_port,pid=$kafka_pid,note=in the page cache")
    start_kafka "$work/kafka-flush" log.flush.interval.messages=1
    sides+=(--side "kafka-flush=127.0.0.1:$kafka_port,pid=$kafka_pid,note=flushed after each batch")
    # Warm: a first comparison that does not count.
    "$bench" compare "$rate_file" "${load[@]}" --set "rate=$rate" --rounds 1 "${sides[@]}" >/dev/null || true
    "$bench" compare "$rate_file" "${load[@]}" --set "rate=$rate" --rounds "$rounds" "${sides[@]}" \
        --output "$output/half" || echo "knee.sh: half: see above" >&2
    stop_all
    rm -rf "${work:?}"/{half,kafka,kafka-flush}
}

soak() {
    local rate=$((knee / 2)) probe=("$bench" probe disk --folder "$work" --write-size 16384 --depth 1 --seconds 20)
    "${probe[@]}" >"$output/disk-before.txt"
    start_broker "$work/soak" "${settings[@]}" log.retention.bytes=268435456 log.retention.check.interval.ms=10000 \
        log.segment.bytes=67108864
    "$bench" run "$rate_file" --bootstrap-server "127.0.0.1:$port" --pid "$broker_pid" --set realtime=true --set warm_up=10 \
        --set "duration=$((${SOAK_SECONDS:-600} + 10))" --set "rate=$rate" --quiet --output "$output/soak" ||
        echo "knee.sh: soak: see above" >&2
    stop_all
    "${probe[@]}" >"$output/disk-after.txt"
    rm -rf "${work:?}/soak"
}

# The broker keeps half a GB in memory, so a backlog of 1.5 GB is read from the disk.
cold() {
    local round with
    start_broker "$work/cold" logmill.memory.bytes=1073741824
    for round in $(seq "$rounds"); do
        for with in 0 1; do
            "$bench" run "$root/bench-harness/workloads/cold-reader.toml" --bootstrap-server "127.0.0.1:$port" --pid "$broker_pid" \
                "${load[@]}" --set "backlog_readers=$with" --set "backlog_mb=$((with * 1500))" --output "$output/cold-$with-$round" |
                grep -E 'p99.9|invalid' | sed "s/^/backlog readers $with: /" | tee -a "$output/cold.txt" || true
        done
    done
    stop_all
    rm -rf "${work:?}/cold"
}

knee=${KNEE:-} knee_kafka=${KNEE_KAFKA:-}
for case in "${cases[@]}"; do "$case"; done
echo "results: $output"
