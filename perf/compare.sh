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
for binary in "$broker" "$bench"; do
    [ -x "$binary" ] || { echo "compare.sh: $binary is not there; build it first" >&2; exit 2; }
done

work=$(mktemp -d "${TMPDIR:-/tmp}/logmill-compare.XXXXXX")
started=()
cleanup() {
    local status=$?
    for pid in "${started[@]}"; do
        kill -CONT "$pid" 2>/dev/null || true
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # After a failure the logs stay.
    if [ "$status" = 0 ]; then rm -rf "$work"; else rm -rf "$work/data" "$work/kafka"; fi
}
trap cleanup EXIT
wait_for() { # PORT PID NAME
    for _ in $(seq 300); do
        kill -0 "$2" 2>/dev/null || { echo "compare.sh: $3 ended:" >&2; tail -5 "$work/$3.log" >&2; exit 1; }
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.1
    done
    echo "compare.sh: $3 does not listen on port $1 after 30 s; see $work/$3.log" >&2
    exit 1
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) controller_port=$(free_port)
"$broker" serve --set "log.dirs=$work/data" \
    --set "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port" \
    --set "advertised.listeners=PLAINTEXT://127.0.0.1:$port" \
    --set "controller.quorum.voters=1@127.0.0.1:$controller_port" \
    "${settings[@]/#/--set=}" >"$work/broker.log" 2>&1 &
broker_pid=$!; started+=("$broker_pid")
wait_for "$port" "$broker_pid" broker

if [ -n "${KAFKA_JARS:-}" ]; then
    kafka_port=$(free_port) kafka_controller_port=$(free_port)
    mkdir "$work/kafka"
    cat >"$work/kafka/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$kafka_controller_port
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$kafka_controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$work/kafka/data
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
END
    java -cp "$KAFKA_JARS/*" kafka.tools.StorageTool format -t bG9nbWlsbC1wZWVyLW5vZA \
        -c "$work/kafka/server.properties" >"$work/kafka.log" 2>&1 || { cat "$work/kafka.log" >&2; exit 1; }
    java -server -Xms1g -Xmx1g -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
        -XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true -cp "$KAFKA_JARS/*" \
        kafka.Kafka "$work/kafka/server.properties" >>"$work/kafka.log" 2>&1 </dev/null &
    kafka_pid=$!; started+=("$kafka_pid")
    wait_for "$kafka_port" "$kafka_pid" kafka
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
