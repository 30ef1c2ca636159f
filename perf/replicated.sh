#!/usr/bin/env bash
# Three brokers as three processes of this host, every record on all three (replication factor 3, acks=all), against three of
# Apache Kafka under the same load in turns: one cluster is stopped while the other is measured.
#   cost   1 KiB records in 16 KiB batches as fast as they go: CPU seconds of all three brokers for each GB produced
#   knee   the rate from which on the latency of Kafka's three goes up
#   half   latency at half of that rate
#   perf/replicated.sh BROKER_BINARY OUTPUT_FOLDER
# Logmill acknowledges what is on the disks of all in-sync replicas, Kafka what is in their page caches.
# Environment: KAFKA_JARS (a folder with the jars of Apache Kafka), BENCH, CASES (of those above), ROUNDS (5), SECONDS_EACH (15: of
# a round), KNEE_KAFKA (records per second, instead of looking for it), SETTINGS (of the brokers), P99_LIMIT_MS (50).
set -euo pipefail

broker=${1:?usage: perf/replicated.sh BROKER_BINARY OUTPUT_FOLDER}
output=${2:?usage: perf/replicated.sh BROKER_BINARY OUTPUT_FOLDER}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-15}
read -r -a cases <<< "${CASES:-cost knee half}"
# What three brokers and their client need on one host.
read -r -a settings <<< "${SETTINGS-logmill.memory.bytes=1073741824}"
: "${KAFKA_JARS:?needs the folder with the jars of Apache Kafka}"
. "$root/perf/sides.sh"
needs_binaries "$broker" "$bench"
mkdir -p "$output"
workloads=$root/bench-harness/workloads
load=(--set replication_factor=3 --set acks=all --set warm_up=4 --set "duration=$((seconds + 4))" --quiet)

# The pids of the cluster that was started last, as a side wants them.
pids() { printf ',pid=%s' "${cluster_pids[@]}"; }

start_both() {
    start_brokers "$work/logmill" "${settings[@]}"
    ours="logmill=127.0.0.1:$port$(pids),note=on three disks"
    start_kafkas "$work/kafka"
    theirs="kafka=127.0.0.1:$kafka_port$(pids),note=in three page caches"
}
compared() { # NAME WORKLOAD [OPTION…]
    local name=$1 workload=$2
    shift 2
    # Warm: a first comparison that does not count.
    "$bench" compare "$workload" "${load[@]}" "$@" --rounds 1 --side "$ours" --side "$theirs" >/dev/null || true
    "$bench" compare "$workload" "${load[@]}" "$@" --rounds "$rounds" --side "$ours" --side "$theirs" \
        --output "$output/$name" || echo "replicated.sh: $name: see above" >&2
}

cost() { compared cost "$workloads/produce-1k.toml"; }

knee() {
    local _
    # Twice: the first time warms it up.
    for _ in 1 2; do
        knee_kafka=$(knee_of "$theirs" 4000 "${P99_LIMIT_MS:-50}" "$output/knee.txt" --set replication_factor=3)
    done
    echo "knee: kafka ${knee_kafka:-none} records/s" | tee -a "$output/knee.txt"
}

# At a fixed rate the client's threads go first, as if they had a host of their own.
half() { compared half "$workloads/rate-1k.toml" --set realtime=true --set "rate=$((knee_kafka / 2))"; }

knee_kafka=${KNEE_KAFKA:-}
start_both
for case in "${cases[@]}"; do
    # Nobody else works while the peer's limit is looked for.
    [ "$case" != knee ] || for pid in "${started[@]:0:3}"; do kill -STOP "$pid"; done
    "$case"
    [ "$case" != knee ] || for pid in "${started[@]:0:3}"; do kill -CONT "$pid"; done
done
echo "results: $output"
