# Brokers for the scripts beside this file, which read it in. Everything that it starts ends with the script; $work is a folder
# that goes then.
#   start_broker FOLDER [SETTING…]   Logmill from $broker with its data in FOLDER; sets port and broker_pid. With data of an
#                                    earlier start it keeps the ports
#   start_kafka FOLDER [SETTING…]    Apache Kafka from the jars in $KAFKA_JARS, with the settings and the Java options that
#                                    it ships with; sets kafka_port and kafka_pid
#   start_brokers FOLDER [SETTING…]  three of Logmill as one cluster; sets port (of the first) and cluster_pids
#   start_kafkas FOLDER [SETTING…]   the same of Apache Kafka; sets kafka_port and cluster_pids
#   wait_for PORT PID NAME           waits until something listens
#   knee_of SIDE START LIMIT_MS FILE [OPTION…]
#                                    prints the highest rate of 1 KiB records that a side carries with a p99 within the limit, looked
#                                    for with $bench from START records per second on; what it did is added to FILE
#   stop PID [SIGNAL]                ends what was started, and waits for its end
#   needs_binaries BINARY…           ends the script if one is not there

script=$(basename "$0")
work=$(mktemp -d "${TMPDIR:-/tmp}/logmill-${script%.sh}.XXXXXX")
started=()
stop() {
    kill -CONT "$1" 2>/dev/null || true
    kill "-${2:-TERM}" "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
stop_all() {
    local pid
    for pid in "${started[@]}"; do stop "$pid"; done
    started=()
}
cleanup() {
    local status=$?
    stop_all
    # After a failure the logs stay.
    if [ "$status" = 0 ]; then rm -rf "$work"; else find "$work" -mindepth 1 -maxdepth 1 ! -name '*.log' -exec rm -rf {} +; fi
}
trap cleanup EXIT

needs_binaries() {
    local binary
    for binary in "$@"; do
        [ -x "$binary" ] || { echo "$script: $binary is not there; build it first" >&2; exit 2; }
    done
}
wait_for() {
    local _
    for _ in $(seq 6000); do
        kill -0 "$2" 2>/dev/null || { echo "$script: $3 ended:" >&2; tail -5 "$work/$3.log" >&2; exit 1; }
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.01
    done
    echo "$script: $3 does not listen on port $1 after a minute; see $work/$3.log" >&2
    exit 1
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start_broker() {
    local folder=$1
    shift
    [ -e "$folder" ] || { port=$(free_port) controller_port=$(free_port); }
    "$broker" serve --set "log.dirs=$folder" \
        --set "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port" \
        --set "advertised.listeners=PLAINTEXT://127.0.0.1:$port" \
        --set "controller.quorum.voters=1@127.0.0.1:$controller_port" "${@/#/--set=}" >>"$work/broker.log" 2>&1 &
    broker_pid=$!
    started+=("$broker_pid")
    wait_for "$port" "$broker_pid" broker
}

format_kafka() { # FOLDER NODE PORT CONTROLLER_PORT VOTERS [SETTING…]
    mkdir -p "$1"
    cat >"$1/server.properties" <<END
process.roles=broker,controller
node.id=$2
controller.quorum.voters=$5
listeners=PLAINTEXT://127.0.0.1:$3,CONTROLLER://127.0.0.1:$4
advertised.listeners=PLAINTEXT://127.0.0.1:$3
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$1/data
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
END
    printf '%s\n' "${@:6}" >>"$1/server.properties"
    java -cp "$KAFKA_JARS/*" kafka.tools.StorageTool format -t bG9nbWlsbC1wZWVyLW5vZA \
        -c "$1/server.properties" >>"$work/kafka.log" 2>&1 || { cat "$work/kafka.log" >&2; exit 1; }
}
run_kafka() { # FOLDER
    java -server -Xms1g -Xmx1g -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
        -XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true -cp "$KAFKA_JARS/*" \
        kafka.Kafka "$1/server.properties" >>"$work/kafka.log" 2>&1 </dev/null &
    kafka_pid=$!
    started+=("$kafka_pid")
}

# A folder that Kafka has used before is taken as it is, with its ports.
start_kafka() {
    local folder=$1 controller_port
    shift
    if [ ! -e "$folder/server.properties" ]; then
        kafka_port=$(free_port) controller_port=$(free_port)
        format_kafka "$folder" 1 "$kafka_port" "$controller_port" "1@127.0.0.1:$controller_port" \
            offsets.topic.replication.factor=1 transaction.state.log.replication.factor=1 transaction.state.log.min.isr=1 "$@"
    fi
    run_kafka "$folder"
    wait_for "$kafka_port" "$kafka_pid" kafka
}

# Sets ports, controller_ports and voters for three nodes, of which none has started.
three_places() {
    local node
    ports=(0) controller_ports=(0) voters='' cluster_pids=()
    for node in 1 2 3; do
        ports+=("$(free_port)") controller_ports+=("$(free_port)")
        voters+="${voters:+,}$node@127.0.0.1:${controller_ports[node]}"
    done
}

wait_for_three() { # NAME
    local node
    for node in 1 2 3; do wait_for "${ports[node]}" "${cluster_pids[node - 1]}" "$1"; done
}

start_brokers() {
    local folder=$1 node
    shift
    three_places
    for node in 1 2 3; do
        "$broker" serve --set "node.id=$node" --set process.roles=broker,controller --set "log.dirs=$folder/$node" \
            --set "listeners=PLAINTEXT://127.0.0.1:${ports[node]},CONTROLLER://127.0.0.1:${controller_ports[node]}" \
            --set controller.listener.names=CONTROLLER --set "controller.quorum.voters=$voters" \
            --set logmill.admin.listener= "${@/#/--set=}" >>"$work/broker.log" 2>&1 &
        cluster_pids+=($!)
        started+=($!)
    done
    wait_for_three broker
    port=${ports[1]}
}

start_kafkas() {
    local folder=$1 node
    shift
    three_places
    for node in 1 2 3; do
        format_kafka "$folder/$node" "$node" "${ports[node]}" "${controller_ports[node]}" "$voters" "$@"
        run_kafka "$folder/$node"
        cluster_pids+=("$kafka_pid")
    done
    wait_for_three kafka
    kafka_port=${ports[1]}
}

knee_of() {
    local side=$1 start=$2 limit_ms=$3 file=$4
    shift 4
    # Broker and client share the cores; so the client's threads go first, as if they had a host of their own.
    "$bench" sweep "$root/bench-harness/workloads/rate-1k.toml" --start "$start" --factor 1.6 --refine 2 --p99-limit-ms "$limit_ms" \
        --set realtime=true --set warm_up=3 --set duration=11 --quiet "$@" --side "$side" | tee -a "$file" |
        awk '/knee/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9,_]+$/) { gsub(/[,_]/, "", $i); print $i; exit } }'
}
