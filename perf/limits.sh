#!/usr/bin/env bash
# How near the broker comes to what disk and sockets allow, each beside its limit in the same run, in turns:
#   append  journal and log in a process of their own, against direct writes that are as durable, into blocks allocated alike
#   hot     fetches of what is in memory, against plain sends over as many connections of loopback
#   cold    fetches of what is on the disk alone, against the lesser of direct reads and plain sends
#   perf/limits.sh BROKER_BINARY [FOLDER_ON_THE_DISK]
# Environment: BENCH, APPENDER (the built benchmark `appender`, instead of building it), CASES (of those above), ROUNDS (3),
# APPEND_KIB (256), SETTINGS (of the broker).
set -euo pipefail

broker=${1:?usage: perf/limits.sh BROKER_BINARY [FOLDER_ON_THE_DISK]}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
rounds=${ROUNDS:-3}
read -r -a cases <<< "${CASES:-append hot cold}"
read -r -a settings <<< "${SETTINGS-logmill.memory.bytes=1073741824}"
[ -z "${2:-}" ] || export TMPDIR=$2
. "$root/perf/sides.sh"
needs_binaries "$broker" "$bench"

# Readers, which are connections: the same number for the broker and for the bare sockets.
connections=2

median() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
# figure NAME FIELD: what the probe whose line begins with NAME says.
figure() { awk -v name="$1" -v unit="$2" 'index($0, name) == 1 { for (i = 2; i <= NF; i++) if ($i == unit) print $(i - 1) }' "$work/probe.txt"; }
field() { python3 -c 'import functools, json, sys
print(functools.reduce(lambda value, key: value[key], sys.argv[2].split("."), json.load(open(sys.argv[1]))))' "$work/result.json" "$1"; }

append() {
    local appender=${APPENDER:-} built
    if [ -z "$appender" ]; then
        built=$(cd "$root" && ${CARGO:-cargo} bench --profile test-release -p logmill --bench appender --no-run 2>&1) ||
            { echo "$built" >&2; exit 1; }
        appender=$root/$(sed -n 's/.*Executable .*(\(.*\))$/\1/p' <<<"$built" | sed "s|^$root/||")
    fi
    echo "append: ${APPEND_KIB:-256} KiB, 8 at once"
    "$appender" "$work" "${APPEND_KIB:-256}" 8 512 "$rounds"
}

sends() {
    "$bench" probe loopback --connections "$connections" --chunk 1048576 --seconds 3 >"$work/probe.txt"
    figure send MB/s
}

hot() {
    local round
    start_broker "$work/hot" "${settings[@]}"
    for round in $(seq "$rounds"); do
        "$bench" run "$root/bench-harness/workloads/fetch-hot.toml" --bootstrap-server "127.0.0.1:$port" --pid "$broker_pid" \
            --set "backlog_readers=$connections" --set check_crc=false --set backlog_mb=300 --set warm_up=1 \
            --set duration=5 --quiet --format json >"$work/result.json"
        echo "$(field backlog_fetched.megabytes_per_second) $(field broker.cpu_seconds_per_gb)" \
            "$(sends) $(figure send CPU-s/GB)"
    done >"$work/hot.txt"
    stop "$broker_pid"
    awk '{ printf "hot: %.0f MB/s at %.3f CPU-s/GB; plain sends %.0f MB/s at %.3f: %.2f of the speed, %.2f of the CPU time\n",
        $1, $2, $3, $4, $1 / $3, $2 / $4 }' "$work/hot.txt"
    echo "hot, median: $(awk '{ print $1 / $3 }' "$work/hot.txt" | median) of plain sends; aim: 0.9"
}

cold() {
    local round reads
    local run=("$bench" run --topic cold --set partitions=6 --quiet --format json)
    start_broker "$work/cold" "${settings[@]}"
    "${run[@]}" --bootstrap-server "127.0.0.1:$port" --set producers=4 --set record_size=1024 --set batch_size=16384 \
        --set duration=0 --set records=3000000 >"$work/result.json"
    for round in $(seq "$rounds"); do
        stop "$broker_pid"
        sync
        echo 3 2>/dev/null >/proc/sys/vm/drop_caches || true
        start_broker "$work/cold" "${settings[@]}"
        "${run[@]}" --bootstrap-server "127.0.0.1:$port" --pid "$broker_pid" --set producers=0 --set "consumers=$connections" \
            --set from_beginning=true --set check_crc=false --set duration=60 >"$work/result.json"
        "$bench" probe disk --folder "$work" --write-size 1048576 --depth "$connections" --seconds 2 --file-mb 1000 \
            >"$work/probe.txt"
        reads=$(figure "1024 KiB read" MB/s)
        echo "$(field fetched.megabytes_per_second) $(field broker.cpu_seconds_per_gb) $reads $(sends)"
    done >"$work/cold.txt"
    stop "$broker_pid"
    awk '{ least = $3 < $4 ? $3 : $4
        printf "cold: %.0f MB/s at %.3f CPU-s/GB; direct reads %.0f MB/s, plain sends %.0f MB/s: %.2f of the lesser\n",
            $1, $2, $3, $4, $1 / least }' "$work/cold.txt"
    echo "cold, median: $(awk '{ print $1 / ($3 < $4 ? $3 : $4) }' "$work/cold.txt" | median) of the lesser; aim: 0.9"
}

for case in "${cases[@]}"; do
    case $case in
        append | hot | cold) "$case" ;;
        *) echo "limits.sh: no case is called $case" >&2; exit 2 ;;
    esac
done
