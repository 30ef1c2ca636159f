#!/usr/bin/env bash
# Puts the same load on the null broker, on Logmill and on other brokers in turns, and prints ratios with their spread.
#   perf/compare.sh BROKER_BINARY [OUTPUT_FOLDER]
# Environment: BENCH (the harness's binary), WORKLOADS (files, separated by blanks), ROUNDS, OTHERS (further sides,
# separated by blanks, such as "other=127.0.0.1:9092,pid=1234"), KAFKA_JARS (a folder with the jars of Apache Kafka, which
# is then started as one more side, with the settings and the Java options that it ships with), COMPARE_OPTIONS (further
# options of `logmill-bench compare`, separated by blanks), BROKER_SETTINGS (settings of the broker, separated by blanks).
set -euo pipefail

broker=${1:?usage: perf/compare.sh BROKER_BINARY [OUTPUT_FOLDER]}
output=${2:-perf-results}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
read -r -a workloads <<< "${WORKLOADS:-$root/bench-harness/workloads/produce-1k.toml $root/bench-harness/workloads/fetch-hot.toml}"
read -r -a others <<< "${OTHERS:-}"
read -r -a options <<< "${COMPARE_OPTIONS:-}"
read -r -a settings <<< "${BROKER_SETTINGS:-}"
. "$root/perf/sides.sh"
needs_binaries "$broker" "$bench"

start_broker "$work/data" "${settings[@]}"
if [ -n "${KAFKA_JARS:-}" ]; then
    start_kafka "$work/kafka"
    others+=("kafka=127.0.0.1:$kafka_port,pid=$kafka_pid,note=in the page cache; nothing is flushed")
fi

for workload in "${workloads[@]}"; do
    name=$(basename "$workload" | sed 's/\.[a-z]*$//')
    # An invalid comparison is kept and shown as such; the next one is done all the same.
    "$bench" compare "$workload" --rounds "${ROUNDS:-3}" --with-null-broker \
        --side "logmill=127.0.0.1:$port,pid=$broker_pid,note=${DURABILITY:-its default: see its configuration}" \
        "${others[@]/#/--side=}" "${options[@]}" --output "$output/$name" || echo "compare.sh: $name: see above" >&2
done
echo "results: $output"
