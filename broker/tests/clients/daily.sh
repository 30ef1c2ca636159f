# Sourced by the suites of daily use (README.md), after broker.sh: the broker with the settings that the groups need,
# and the group of three.

# With Kafka's defaults a member that died is missed only after 45 s, and a classic group waits 3 s for its first members.
daily_start() {
    broker_start logmill.shards=2 auto.create.topics.enable=false group.initial.rebalance.delay.ms=0 \
        group.consumer.min.session.timeout.ms=6000 group.consumer.session.timeout.ms=6000 \
        group.consumer.min.heartbeat.interval.ms=1000 group.consumer.heartbeat.interval.ms=1000
}

parts_failed=0
parts=()

# run_part NAME COMMAND...: runs the command, which prints its own counts; daily_finish knows how it ended.
run_part() {
    start_part "$@"
    await_parts
}

# start_part NAME COMMAND...: the same, beside others, until await_parts shows what they have printed.
start_part() {
    local name=$1
    shift
    timeout 300 "$@" >"$work/part.${#parts[@]}" 2>&1 </dev/null &
    parts+=("$! $name")
}

await_parts() {
    local at
    for at in "${!parts[@]}"; do
        wait "${parts[$at]%% *}" || {
            parts_failed=$((parts_failed + 1))
            echo "the part \"${parts[$at]#* }\" failed" >>"$work/part.$at"
        }
        cat "$work/part.$at"
    done
    parts=()
}

group_of_three() { # (-- NAME PROTOCOL COMMAND...)...
    run_part "groups of three" python3 -B "$repository/broker/tests/clients/group.py" "$bootstrap" "$@"
}

# The parts' own lines of counts are the suite's.
daily_finish() {
    if [ "$parts_failed" -ne 0 ]; then
        echo "the end of the broker's output:"
        tail -n 40 "$work/broker.log" || true
    fi
    broker_stop
    [ "$parts_failed" -eq 0 ]
}
