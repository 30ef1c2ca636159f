#!/usr/bin/env bash
# Where a broker's CPU time goes under load: stages of its work in CPU time per request and byte, the costliest functions,
# and a flame graph, from perf record on its process while logmill-bench puts a load on it.
#   perf/profile.sh BROKER_BINARY [OUTPUT_FOLDER]
#   perf/profile.sh --build [OUTPUT_FOLDER]     builds a broker with frame pointers first, without which a copy or a
#                                               checksum has no caller and counts as "other"
# Environment: BENCH, CASES (of those below, separated by blanks), SECONDS_EACH (12), WARM_UP (8 seconds), SETTINGS (of the
# broker), WORKLOAD (further keys of the workloads, such as "record_size=100 acks=1").
# A broker that has not yet used all the memory that it may pays for each page's first use, which can be most of its CPU
# time. The settings bound its memory so that the warm-up is long enough to be over that; SETTINGS= and WARM_UP=2 show it.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
broker=${1:?usage: perf/profile.sh BROKER_BINARY|--build [OUTPUT_FOLDER]}
output=${2:-profiles}
bench=${BENCH:-$root/target/test-release/logmill-bench}
seconds=${SECONDS_EACH:-12}
read -r -a cases <<< "${CASES:-produce-durable produce-write-caching fetch-hot one-record-per-request}"
warm_up=${WARM_UP:-8}
read -r -a more_settings <<< "${SETTINGS-logmill.memory.bytes=1073741824}"
read -r -a more_load <<< "${WORKLOAD:-}"
if ! command -v perf >/dev/null || ! perf record -q -o /dev/null -- true 2>/dev/null; then
    echo "profile.sh: SKIPPED: perf is missing or may not record here; install it, or lower kernel.perf_event_paranoid"
    exit 0
fi
if [ "$broker" = --build ]; then
    # A folder of its own: other flags would make everything in the usual one be built again.
    RUSTFLAGS="-C force-frame-pointers=yes" CFLAGS="-fno-omit-frame-pointer" CARGO_TARGET_DIR=$root/target/frame-pointers \
        cargo build --profile test-release -p logmill --manifest-path "$root/Cargo.toml"
    broker=$root/target/frame-pointers/test-release/logmill
fi
. "$root/perf/sides.sh"
needs_binaries "$broker" "$bench"
# The inodes of the journal's files, and of the logs' that are there by then, each with its stage.
inodes() {
    find "$work/data/journal" -type f -printf '%i journal\n'
    find "$work/data" -path "$work/data/journal" -prune -o -type f -printf '%i segment\n'
}

# Sampled is the whole host, and the broker's samples are taken from that: a clock for each thread would be set anew each
# time one wakes, which costs a broker that often sleeps a fifth of its time and shows as the cost of waking.
# The tracepoint tells whether a write is the journal's. Without it all of them count as the journal's.
events=(-e "cpu-clock/freq=999,call-graph=fp/")
if [ -r /sys/kernel/tracing/events/iomap/iomap_dio_rw_begin/id ]; then events+=(-e iomap:iomap_dio_rw_begin); fi

profile() { # NAME WORKLOAD_FILE KEYS SETTINGS
    local name=$1 file=$2 keys settings
    read -r -a keys <<< "$3"
    read -r -a settings <<< "$4"
    keys+=("warm_up=$warm_up" "duration=$((warm_up + seconds + 1))" "${more_load[@]}")
    rm -rf "$work/data"
    start_broker "$work/data" "${settings[@]}" "${more_settings[@]}"
    local folder=$work/$name
    mkdir -p "$folder"
    "$bench" run "$root/bench-harness/workloads/$file" --bootstrap-server "127.0.0.1:$port" --pid "$broker_pid" \
        --name "$name" --output "$folder" --keep-topics "${keys[@]/#/--set=}" >"$folder/run.txt" 2>"$folder/progress.txt" &
    local load=$!
    # The first line about a second that counts: the warm-up, and the backlog's writing, are over.
    while kill -0 "$load" 2>/dev/null && ! grep -q ' s   ' "$folder/progress.txt"; do sleep 0.05; done
    perf record -q -a "${events[@]}" -o "$work/perf.data" -- sleep "$((seconds - 1))"
    wait "$load" || { cat "$folder/run.txt" "$folder/progress.txt" >&2; exit 1; }
    inodes >"$work/inodes"
    local pid=$broker_pid
    stop "$pid"
    perf script -i "$work/perf.data" --no-inline -F comm,pid,tid,time,event,trace,ip,sym,dso 2>/dev/null |
        python3 "$root/perf/stages.py" --pid "$pid" --inodes "$work/inodes" --result "$folder"/*.json \
            --flame-graph "$output/$name.svg" --title "$name" >"$output/$name.txt"
    # The load itself, for those who ask what the profile is of.
    cat "$folder/run.txt" >>"$output/$name.txt"
    sed -n '1,/^$/p' "$output/$name.txt"
    [ -z "${KEEP_PERF_DATA:-}" ] || mv "$work/perf.data" "$output/$name.perf.data"
}

mkdir -p "$output"
for name in "${cases[@]}"; do
    case $name in
        produce-durable) profile "$name" produce-1k.toml "" "" ;;
        produce-write-caching) profile "$name" produce-1k.toml "acks=1" "logmill.write.caching=true" ;;
        fetch-hot) profile "$name" fetch-hot.toml "" "" ;;
        one-record-per-request) profile "$name" one-record-per-request.toml "" "" ;;
        *) echo "profile.sh: no case is called $name" >&2; exit 2 ;;
    esac
done
echo "profiles: $output"
