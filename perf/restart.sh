#!/usr/bin/env bash
# How long a broker takes after kill -9, with so many GB in its log and an empty page cache, until it serves all partitions:
# from its start until it answers ListOffsets for each of them with the end that was acknowledged.
#   perf/restart.sh BROKER_BINARY [GB…]       by default 1 and 5; 20 takes 20 GB of disk for each broker, one after the other
# Environment: BENCH, KAFKA_JARS (a folder with the jars of Apache Kafka, which is then measured as well), REPEATS (3 restarts of
# each), TMPDIR (where the data goes), SETTINGS (of the broker, separated by blanks). To empty the page cache it must be root.
set -euo pipefail

broker=${1:?usage: perf/restart.sh BROKER_BINARY [GB…]}
shift
sizes=("${@:-}")
[ -n "${sizes[0]}" ] || sizes=(1 5)
root=$(cd "$(dirname "$0")/.." && pwd)
bench=${BENCH:-$root/target/test-release/logmill-bench}
read -r -a settings <<< "${SETTINGS:-}"
. "$root/perf/sides.sh"
needs_binaries "$broker" "$bench"

# Prints the seconds from the moment in a file, which is that of the broker's start, until all partitions have their end.
cat >"$work/served.py" <<'END'
import socket
import struct
import sys
import time

port, began, topic, partitions, expected = *sys.argv[1:3], sys.argv[3].encode(), *map(int, sys.argv[4:])
give_up = time.time() + 600


def ask(connection, key, version, body):
    request = struct.pack(">hhih", key, version, 1, -1) + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    answer = b""
    while len(answer) < 4 or len(answer) < 4 + struct.unpack(">i", answer[:4])[0]:
        more = connection.recv(1 << 16)
        if not more:
            raise ConnectionError
        answer += more
    return answer[8:]


# ListOffsets, version 1: the end (-1) of each partition.
body = struct.pack(">iih", -1, 1, len(topic)) + topic + struct.pack(">i", partitions)
for partition in range(partitions):
    body += struct.pack(">iq", partition, -1)
while time.time() < give_up:
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=60) as connection:
            while True:
                answer = ask(connection, 2, 1, body)
                at = 4 + 2 + len(topic) + 4
                found = [struct.unpack_from(">ihqq", answer, at + 22 * number) for number in range(partitions)]
                if all(error == 0 for _, error, _, _ in found):
                    took = time.time() - float(open(began).read())
                    end = sum(offset for _, _, _, offset in found)
                    if end < expected:
                        sys.exit(f"acknowledged records are missing: {end} of {expected}")
                    print(f"{took:.3f}")
                    sys.exit(0)
                time.sleep(0.002)
    except (OSError, struct.error):
        time.sleep(0.002)
sys.exit("not served after 10 minutes")
END
drop_caches() {
    sync
    echo 3 2>/dev/null >/proc/sys/vm/drop_caches || echo "restart.sh: the page cache stays: only root may empty it" >&2
}

# measure NAME GB: "start NAME" starts that broker and sets $at and $pid.
measure() {
    local name=$1 gb=$2 records=$(($2 * 1000000000 / 1040)) times=() watcher
    start "$name"
    "$bench" run --bootstrap-server "127.0.0.1:$at" --topic restarted --set partitions=6 --set producers=4 --set acks=1 \
        --set record_size=1024 --set batch_size=16384 --set duration=0 --set "records=$records" --quiet >"$work/load.log" 2>&1 ||
        { cat "$work/load.log" >&2; exit 1; }
    for _ in $(seq "${REPEATS:-3}"); do
        stop "$pid" KILL
        drop_caches
        python3 "$work/served.py" "$at" "$work/began" restarted 6 "$records" >"$work/served" &
        watcher=$!
        sleep 0.3
        printf '%s' "$EPOCHREALTIME" >"$work/began"
        start "$name"
        wait "$watcher"
        times+=("$(cat "$work/served")")
        # What the recovery has cost is in the next kill's log again.
    done
    stop "$pid"
    printf '%-8s %3d GB  served after %s s; %s\n' "$name" "$gb" "${times[*]}" \
        "$(du -sm "$work/$name" | cut -f1) MiB on disk"
    rm -rf "${work:?}/$name"
}
start() {
    case $1 in
        logmill) start_broker "$work/logmill" "${settings[@]}"; at=$port pid=$broker_pid ;;
        kafka) start_kafka "$work/kafka"; at=$kafka_port pid=$kafka_pid ;;
    esac
}

for gb in "${sizes[@]}"; do
    free_gb=$(df --output=avail -B 1000000000 "$work" | tail -1)
    [ "$free_gb" -gt $((gb + gb / 2 + 2)) ] || { echo "restart.sh: $gb GB do not fit into $free_gb GB of free disk" >&2; exit 2; }
    measure logmill "$gb"
    [ -z "${KAFKA_JARS:-}" ] || measure kafka "$gb"
done
