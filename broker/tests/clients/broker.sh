# Sourced by the clients' suites: one broker on a free loopback port and a fresh data directory, both of which go away
# with the suite, and the counting of checks.
#
#   LOGMILL_CI_BIN  the broker's binary; without it the one of the dev profile is built
#
# A suite whose first argument is --peer starts Apache Kafka instead (peer/peer.sh).
# Sets: work (a directory for scratch), port, bootstrap.

set -euo pipefail
export LC_ALL=C

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/logmill-clients.XXXXXX")
port=
broker_pid=
subject=logmill
[ "${1:-}" != --peer ] || subject=peer
passed=0
failed=0

broker_binary() {
    if [ -z "${LOGMILL_CI_BIN:-}" ]; then
        (cd "$repository" && cargo build --quiet --locked -p logmill --bin logmill)
        LOGMILL_CI_BIN=${CARGO_TARGET_DIR:-$repository/target}/debug/logmill
    fi
    [ -x "$LOGMILL_CI_BIN" ] || {
        echo "error: $LOGMILL_CI_BIN is not an executable file" >&2
        echo "remedy: set LOGMILL_CI_BIN to the broker's binary, or unset it to have it built" >&2
        exit 1
    }
}

# A port that was free a moment ago, outside of the range that the kernel gives to outgoing connections.
free_port() {
    local candidate
    for _ in $(seq 100); do
        candidate=$((20000 + RANDOM % 10000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no free port found" >&2
    return 1
}

# broker_start [SETTING=VALUE...]: starts the broker on the suite's directory and waits until it answers.
broker_start() {
    [ -n "$port" ] || port=$(free_port)
    bootstrap=127.0.0.1:$port
    if [ "$subject" = peer ]; then
        broker_pid=$(start_peer "$port" "$work/peer" "$@" 2>>"$work/broker.log") && return
        cat "$work/broker.log" >&2
        exit 1
    fi
    local arguments=(--set "log.dirs=$work/data" --set "listeners=PLAINTEXT://$bootstrap") setting
    for setting in "$@"; do
        arguments+=(--set "$setting")
    done
    rm -f "$work/start"
    # Variables of this name are the broker's settings; none of the suites' own may reach it.
    env $(env -0 | tr '\0' '\n' | sed -n 's/^\(LOGMILL_[A-Z0-9_]*\)=.*/-u \1/p') \
        "$LOGMILL_CI_BIN" "${arguments[@]}" >"$work/start" 2>>"$work/broker.log" </dev/null &
    broker_pid=$!
    local deadline=$((SECONDS + 30))
    # The last line of what it prints when it serves. That the port accepts would say less: the listening socket of a
    # process that was just killed lives on until the kernel has taken down its rings.
    until grep -q '^  durability ' "$work/start" 2>/dev/null; do
        if ! kill -0 "$broker_pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            echo "error: the broker does not serve on $bootstrap; its output:" >&2
            tail -n 40 "$work/start" "$work/broker.log" >&2
            exit 1
        fi
        sleep 0.05
    done
}

# Asks the broker to stop, and fails unless it ends with status 0 within 30 s.
broker_stop() {
    local pid=$broker_pid status=0 deadline=$((SECONDS + 30))
    if [ "$subject" = peer ]; then
        broker_pid=
        stop_peer "$pid"
        return
    fi
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "error: the broker did not stop within 30 s of SIGTERM" >&2
            return 1
        fi
        sleep 0.05
    done
    broker_pid=
    wait "$pid" || status=$?
    [ "$status" -eq 0 ] || echo "error: the broker ended with status $status after SIGTERM" >&2
    return "$status"
}

broker_kill() {
    local pid=$broker_pid
    broker_pid=
    kill -KILL "$pid"
    # What the shell says about the signal is not worth a line. The peer is no child of this shell, and as long as it
    # is there its port seems to be open.
    { wait "$pid" || true; } 2>/dev/null
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
}

# check NAME COMMAND...: runs the command, and counts whether it succeeded.
check() {
    local name=$1 begin=$SECONDS
    shift
    if "$@"; then
        passed=$((passed + 1))
        printf 'test %s ... ok (%d s)\n' "$name" "$((SECONDS - begin))"
    else
        failed=$((failed + 1))
        printf 'test %s ... FAILED\n' "$name"
    fi
}

# Prints the counts in the form of Rust's test runner, and ends the suite.
finish() {
    local verdict=ok
    [ "$failed" -eq 0 ] || verdict=FAILED
    if [ "$failed" -ne 0 ]; then
        echo "the end of the broker's output:"
        tail -n 40 "$work/broker.log" || true
    fi
    printf 'test result: %s. %d passed; %d failed; 0 ignored; finished in %ds\n' "$verdict" "$passed" "$failed" "$SECONDS"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

clean_up() {
    [ -z "$broker_pid" ] || kill -KILL "$broker_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
if [ "$subject" = peer ]; then
    . "$repository/broker/tests/clients/peer/peer.sh"
else
    broker_binary
fi
