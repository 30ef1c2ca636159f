#!/usr/bin/env bash
# What it costs that a request arrives on a shard that does not own its partition: the same load on the same partition, over a
# connection of the shard that owns it and over one of the other, in turns.
#   perf/wrong-shard.sh BROKER_BINARY
# A new connection goes to the shard that has the fewest; one that stands idle meanwhile sends the next to the other shard. Which
# of them owns the partition shows in the CPU time of their threads. A connection whose requests are all for one other shard
# moves there, so that both are to cost the same; for what a request costs that crosses over, give it two partitions:
#   WORKLOAD="partitions=2 record_size=100 batch_size=1 acks=1 in_flight=5" perf/wrong-shard.sh BROKER_BINARY
# Environment: BENCH, ROUNDS (3), SECONDS_EACH (6), WORKLOAD (further keys), SETTINGS (of the broker).
set -euo pipefail

broker=${1:?usage: perf/wrong-shard.sh BROKER_BINARY}
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
seconds=${SECONDS_EACH:-6}
read -r -a load <<< "${WORKLOAD:-record_size=100 batch_size=1 acks=1 in_flight=5}"
read -r -a settings <<< "${SETTINGS-logmill.write.caching=true logmill.memory.bytes=1073741824}"
. "$root/perf/sides.sh"
needs_binaries "$broker" "$bench"

start_broker "$work/data" logmill.shards=2 "${settings[@]}"
shard_ticks() { # SHARD
    local task
    for task in /proc/"$broker_pid"/task/*; do
        if [ "$(cat "$task/comm")" = "shard-$1" ]; then awk '{ print $14 + $15 }' "$task/stat"; fi
    done
}
run() { # OPTION…
    "$bench" run --bootstrap-server "127.0.0.1:$port" --pid "$broker_pid" --topic one-partition --set partitions=1 \
        --set producers=1 "${load[@]/#/--set=}" --quiet --format json "$@" >"$work/result.json" ||
        { cat "$work/result.json" >&2; exit 1; }
}
measure() { # ROUND IDLE
    [ "$2" = 0 ] || exec 4<>"/dev/tcp/127.0.0.1/$port"
    local before=("$(shard_ticks 0)" "$(shard_ticks 1)")
    run --set warm_up=2 --set "duration=$((seconds + 2))"
    local after=("$(shard_ticks 0)" "$(shard_ticks 1)")
    [ "$2" = 0 ] || exec 4>&-
    python3 - "$work/result.json" "$1" $((after[0] - before[0])) $((after[1] - before[1])) <<'END' | tee -a "$work/figures.txt"
import json
import sys

result, (number, first, second) = json.load(open(sys.argv[1])), sys.argv[2:]
first, second = int(first), int(second)
# Who has nothing to do with the load sleeps through it.
where = "owner" if min(first, second) * 8 < max(first, second) else "other"
latency = result["produced"]["latency"]
print(f"round {number}: {where} {result['broker']['cpu_us_per_request']:.2f} CPU-us per request,",
      f"p50 {latency['p50_ns'] / 1000:.0f} us, p99 {latency['p99_ns'] / 1000:.0f} us,",
      f"threads {first / 100:.2f} and {second / 100:.2f} s")
END
    # The counts forget a connection when its shard has seen its end.
    sleep 0.3
}

run --set warm_up=1 --set duration=3
for round in $(seq "${ROUNDS:-3}"); do
    measure "$round" 0
    measure "$round" 1
done
awk '{ n[$3]++; cpu[$3] += $4; p50[$3] += $9 }
    END {
        if (!n["owner"]) { printf "over both shards %.2f CPU-us per request, p50 %.0f us\n", cpu["other"] / n["other"],
            p50["other"] / n["other"]; exit }
        if (!n["other"]) { printf "at home wherever it began: %.2f CPU-us per request, p50 %.0f us\n", cpu["owner"] / n["owner"],
            p50["owner"] / n["owner"]; exit }
        a = cpu["owner"] / n["owner"]; b = cpu["other"] / n["other"]
        printf "over the owner %.2f, over the other %.2f CPU-us per request: %.2f times, %.2f us more; p50 %.0f and %.0f us\n",
            a, b, b / a, b - a, p50["owner"] / n["owner"], p50["other"] / n["other"]
    }' "$work/figures.txt"
