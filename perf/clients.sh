#!/usr/bin/env bash
# What a record of 100 bytes costs the broker when users' own clients send it: the Java client (ProducerPerformance) and librdkafka
# (kcat), in batches of 16 and 128 KiB, on Logmill and on Apache Kafka in turns. Both acknowledge with acks=1 what a power cut may
# take (Logmill with write.caching=true).
#   perf/clients.sh BROKER_BINARY OUTPUT_FOLDER
# Environment: KAFKA_JARS (a folder with the jars of Apache Kafka and its tools), ROUNDS (5; one more, first, that does not count),
# RECORDS (4000000), SETTINGS (of the broker).
set -euo pipefail

broker=${1:?usage: perf/clients.sh BROKER_BINARY OUTPUT_FOLDER}
output=${2:?usage: perf/clients.sh BROKER_BINARY OUTPUT_FOLDER}
root=$(cd "$(dirname "$0")/.." && pwd)
rounds=${ROUNDS:-5}
records=${RECORDS:-4000000}
read -r -a settings <<< "${SETTINGS-logmill.memory.bytes=2147483648}"
: "${KAFKA_JARS:?needs the folder with the jars of Apache Kafka}"
. "$root/perf/sides.sh"
needs_binaries "$broker" "$(command -v kcat || echo kcat)"
mkdir -p "$output"

# Clock ticks of CPU time, user and system, of a process.
ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }

java_client() { # PORT BATCH
    java -Xmx512m -cp "$KAFKA_JARS/*" org.apache.kafka.tools.ProducerPerformance --topic "java-$2" --num-records "$records" \
        --record-size 100 --throughput -1 --producer-props "bootstrap.servers=127.0.0.1:$1" acks=1 enable.idempotence=false \
        "batch.size=$2" linger.ms=20 buffer.memory=134217728 >>"$output/clients.log" 2>&1
}
librdkafka() { # PORT BATCH
    kcat -b "127.0.0.1:$1" -P -t "librdkafka-$2" -l "$work/records.txt" -X acks=1 -X "batch.size=$2" -X linger.ms=20 \
        -X batch.num.messages=10000 -X queue.buffering.max.messages=1000000 >>"$output/clients.log" 2>&1
}

start_broker "$work/logmill" logmill.write.caching=true "${settings[@]}"
start_kafka "$work/kafka"
head -c $((records * 50)) /dev/urandom | od -An -v -tx1 -w50 | tr -d ' ' >"$work/records.txt"

# Prints the broker's CPU-µs per record.
cost() { # CLIENT BATCH PORT PID OTHER_PID
    local before
    kill -STOP "$5"
    sync
    before=$(ticks "$4")
    "$1" "$3" "$2"
    # What the broker does for it afterwards counts as well.
    sleep 1
    awk -v ticks=$(($(ticks "$4") - before)) -v rate="$(getconf CLK_TCK)" -v records="$records" \
        'BEGIN { printf "%.3f\n", ticks / rate * 1e6 / records }'
    kill -CONT "$5"
}
spread() { sort -n | awk '{ all[NR] = $1 } END { printf "%.3f (%.3f-%.3f)", all[int((NR + 1) / 2)], all[1], all[NR] }'; }

for client in java_client librdkafka; do
    for batch in 16384 131072; do
        : >"$work/figures"
        for round in $(seq 0 "$rounds"); do
            ours=$(cost "$client" "$batch" "$port" "$broker_pid" "$kafka_pid")
            theirs=$(cost "$client" "$batch" "$kafka_port" "$kafka_pid" "$broker_pid")
            # The first one warms the other up.
            [ "$round" = 0 ] || echo "$ours $theirs $(awk "BEGIN { print $ours / $theirs }")" >>"$work/figures"
        done
        printf '%-12s %6d  logmill %s us/record, kafka %s, ratio %s\n' "$client" "$batch" \
            "$(cut -d' ' -f1 "$work/figures" | spread)" "$(cut -d' ' -f2 "$work/figures" | spread)" \
            "$(cut -d' ' -f3 "$work/figures" | spread)" | tee -a "$output/clients.txt"
    done
done
