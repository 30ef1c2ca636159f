# Sourced by the suites of daily use (README.md), after broker.sh: the broker with the settings that the groups need,
# and the group of three.

# With Kafka's defaults a member that died is missed only after 45 s, and a classic group waits 3 s for its first members.
daily_start() {
    broker_start logmill.shards=2 auto.create.topics.enable=false group.initial.rebalance.delay.ms=0 \
        group.consumer.min.session.timeout.ms=6000 group.consumer.session.timeout.ms=6000 \
        group.consumer.min.heartbeat.interval.ms=1000 group.consumer.heartbeat.interval.ms=1000
}

# run_part NAME COMMAND...: runs the command, which prints its own counts; afterwards daily_finish knows how it ended.
parts_failed=0
run_part() {
    local name=$1
    shift
    timeout 300 "$@" && return
    echo "the part \"$name\" failed"
    parts_failed=$((parts_failed + 1))
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
