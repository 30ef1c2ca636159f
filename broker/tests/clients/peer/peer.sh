# Apache Kafka itself, one node on loopback, as the peer that the suites are held against: what passes there should
# pass here. Sourced by ../broker.sh; .ci/install fetches the jars.
#
#   start_peer PORT FOLDER [SETTING=VALUE...]  formats FOLDER if it is new, starts the node, waits until it answers,
#                                              and prints its process id
#   stop_peer PID                              asks it to stop, and kills it if it has not within 30 s

peer_jars=${XDG_CACHE_HOME:-$HOME/.cache}/logmill/peer

peer_settings() { # PORT FOLDER [SETTING=VALUE...]
    local port=$1 folder=$2 controller=$(($1 + 10000))
    shift 2
    cat <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$folder/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
END
    # Ours alone are no settings of Kafka's.
    printf '%s\n' "$@" | grep -v '^logmill\.' || true
}

start_peer() { # PORT FOLDER [SETTING=VALUE...]
    local port=$1 folder=$2 pid deadline
    if [ ! -e "$peer_jars/.made-of" ]; then
        echo "error: $peer_jars is missing" >&2
        echo "remedy: run .ci/install" >&2
        return 1
    fi
    mkdir -p "$folder"
    peer_settings "$@" >"$folder/server.properties"
    local java=(java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$peer_jars/*")
    if [ ! -e "$folder/data/meta.properties" ]; then
        "${java[@]}" kafka.tools.StorageTool format -t bG9nbWlsbC1wZWVyLW5vZA -c "$folder/server.properties" \
            >"$folder/output" 2>&1 || { cat "$folder/output" >&2; return 1; }
    fi
    "${java[@]}" kafka.Kafka "$folder/server.properties" >>"$folder/output" 2>&1 </dev/null &
    pid=$!
    # It listens only when it serves.
    deadline=$((SECONDS + 60))
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            echo "error: Apache Kafka does not serve on 127.0.0.1:$port; its output:" >&2
            tail -n 40 "$folder/output" >&2
            kill -KILL "$pid" 2>/dev/null
            return 1
        fi
        sleep 0.1
    done
    echo "$pid"
}

stop_peer() { # PID
    local deadline=$((SECONDS + 30))
    kill -TERM "$1" 2>/dev/null || return 0
    while kill -0 "$1" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || kill -KILL "$1" 2>/dev/null || true
        sleep 0.1
    done
}
