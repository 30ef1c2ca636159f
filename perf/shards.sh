#!/usr/bin/env bash
# What a second shard brings where the load's generator needs the cores as well: each shard's thread may use so much of a core
# (a cgroup for each, version 1 or 2), and a broker with two of them is compared with one that has one, in turns.
#   perf/shards.sh BROKER_BINARY
# Environment: BENCH, SHARE (35 % of a core for each shard), ROUNDS (3), SECONDS_EACH (8), WORKLOAD (further keys), SETTINGS (of
# the broker). It must be root.
set -euo pipefail

broker=${1:?usage: perf/shards.sh BROKER_BINARY}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
share=${SHARE:-35} seconds=${SECONDS_EACH:-8}
read -r -a load <<< "${WORKLOAD:-record_size=1024 batch_size=16384 acks=1 producers=4 partitions=6}"
read -r -a settings <<< "${SETTINGS-logmill.write.caching=true logmill.memory.bytes=1073741824}"
[ "$(id -u)" = 0 ] || { echo "shards.sh: SKIPPED: making cgroups takes root"; exit 0; }
. "$root/perf/sides.sh"
needs_binaries "$broker" "$bench"

groups=()
if [ -e /sys/fs/cgroup/cpu/tasks ]; then version=1 parent=/sys/fs/cgroup/cpu; else version=2 parent=/sys/fs/cgroup; fi
remove_groups() {
    local group
    for group in "${groups[@]}"; do
        # A group goes when its last thread has gone.
        for _ in $(seq 50); do rmdir "$group" 2>/dev/null && break; sleep 0.1; done
    done
    groups=()
}
trap 'stop_all; remove_groups; cleanup' EXIT

# One group for each shard's thread. Version 2 needs a threaded group that holds the whole process above them.
cap_shards() { # PID
    local task name group above=$parent/logmill-$$
    if [ "$version" = 2 ]; then
        echo +cpu >"$parent/cgroup.subtree_control"
        mkdir "$above"
        echo "$1" >"$above/cgroup.procs"
    fi
    for task in /proc/"$1"/task/*; do
        name=$(cat "$task/comm")
        case $name in shard-*) ;; *) continue ;; esac
        if [ "$version" = 1 ]; then
            group=$above-$name
            mkdir "$group"
            echo 100000 >"$group/cpu.cfs_period_us"
            echo $((share * 1000)) >"$group/cpu.cfs_quota_us"
            basename "$task" >"$group/tasks"
        else
            group=$above/$name
            mkdir "$group"
            echo threaded >"$group/cgroup.type"
            echo +cpu >"$above/cgroup.subtree_control"
            echo "$((share * 1000)) 100000" >"$group/cpu.max"
            basename "$task" >"$group/cgroup.threads"
        fi
        groups+=("$group")
    done
    [ "$version" = 1 ] || groups+=("$above")
}

measure() { # SHARDS
    rm -rf "$work/data"
    start_broker "$work/data" "logmill.shards=$1" "${settings[@]}"
    cap_shards "$broker_pid"
    "$bench" run --bootstrap-server "127.0.0.1:$port" --pid "$broker_pid" --set warm_up=4 --set "duration=$((seconds + 4))" \
        "${load[@]/#/--set=}" --quiet --format json >"$work/result.json" || { cat "$work/result.json" >&2; exit 1; }
    stop "$broker_pid"
    remove_groups
    python3 - "$work/result.json" "$1" <<'END'
import json
import sys

result = json.load(open(sys.argv[1]))
speed, cost = result["produced"]["megabytes_per_second"], result["broker"]["cpu_seconds_per_gb"]
print(sys.argv[2], f"{speed:.1f} {cost:.3f}")
END
}

for round in $(seq "${ROUNDS:-3}"); do
    for shards in 1 2; do
        measure "$shards" | tee -a "$work/figures.txt" |
            sed "s|^\([12]\) \(.*\) \(.*\)|round $round: \1 shard(s) of $share % of a core: \2 MB/s, \3 CPU-s/GB|"
    done
done
awk '{ if ($1 == 1) one = $2; else { n++; sum += $2 / one; if (n == 1 || $2 / one < least) least = $2 / one;
    if ($2 / one > most) most = $2 / one } }
    END { printf "two shards / one, round by round: %.2f (%.2f-%.2f)\n", sum / n, least, most }' "$work/figures.txt"
