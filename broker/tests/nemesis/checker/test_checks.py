#!/usr/bin/env python3
"""The checker's own tests: one good history, and for each rule what makes it a bad one.

Prints the counts in the form of Rust's test runner.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
import zlib

import checks
from history import BadHistory, History, read_folder, read_lines
from judge import verdict

TOPIC = "t"


def checksum(identity):
    return zlib.crc32(identity.encode())


def record(offset, identity):
    return [offset, identity, checksum(identity), 1000 + offset]


class Run:
    """The lines of a run with one topic of one partition, three replicas, and a clock that ticks with every line."""

    def __init__(self):
        self.time = 0
        self.lines = []
        self.count = 0

    def write(self, op, **more):
        self.time += 1
        self.lines.append({"op": op, "t": self.time, **more})

    def send(self, identity, outcome=None, offset=-1, client="producer", **more):
        settings = {"acks": -1, "idempotent": True, "partition": 0, **more}
        self.write(
            "produce", ev="invoke", client=client, topic=TOPIC, id=identity, checksum=checksum(identity), **settings
        )
        if outcome is not None:
            place = {"offset": offset} if outcome == "ok" else {"error": "of a test"}
            self.write("produce", ev=outcome, id=identity, **place)

    def poll(self, *records, client="consumer"):
        self.write("poll", client=client, topic=TOPIC, partition=0, records=list(records))

    def ends(self, end, client="consumer"):
        self.write("ends", client=client, offsets=[[TOPIC, 0, end]])

    def begin(self, op, client="member", **more):
        self.count += 1
        self.write(op, ev="invoke", client=client, n=self.count, group="g", **more)
        return {"op": op, "client": client, "n": self.count}

    def end(self, begun, event, **more):
        self.write(ev=event, **begun, **more)

    def commit(self, offset, event="ok", client="member"):
        begun = self.begin("commit", client, offsets=[[TOPIC, 0, offset]])
        if event is not None:
            self.end(begun, event)

    def committed(self, offset, client="member"):
        begun = self.begin("committed", client)
        self.end(begun, "ok", offsets=[[TOPIC, 0, offset]])

    def final(self, records, end=None, brokers=(None, 1, 2, 3)):
        for broker in brokers:
            more = {"start": 0, "end": len(records) if end is None else end}
            self.write("final", broker=broker, topic=TOPIC, partition=0, records=list(records), **more)

    def verdict(self):
        history = History()
        read_lines(history, self.lines)
        return verdict(history)


CONTENTS = [record(0, "p-0"), record(1, "p-1"), record(2, "p-3"), record(3, "p-4")]


def good():
    """All that may happen without fault: unknown outcomes of both kinds, repeats after an assignment, late commits."""
    run = Run()
    run.write("run", seed=1)
    run.send("p-0", "ok", 0)
    run.send("p-1", "unknown")  # It is there in the end.
    run.send("p-2", "unknown")  # It is not.
    run.send("p-3", "ok", 2)
    run.send("p-4")  # The client died before it knew.
    run.send("p-5", "fail")
    run.write("assign", client="consumer")
    run.poll(CONTENTS[0])
    run.ends(1)
    run.poll(CONTENTS[1], CONTENTS[2])
    run.ends(3)
    run.committed(None)
    run.commit(1)
    run.committed(1)
    run.commit(3, "unknown")
    run.committed(1)
    run.committed(3)
    # Another member begins at what was committed.
    run.write("assign", client="consumer")
    run.poll(*CONTENTS[1:])
    run.commit(4)
    run.committed(4)
    return run


def judged(spoil, *records, end=None):
    """The verdict of the good history after `spoil`, and its final reads."""
    run = good()
    spoil(run)
    run.final(records or CONTENTS, end)
    return run.verdict()


def expect(result, *kinds):
    assert sorted(result["anomalies"]) == sorted(kinds), result


def a_good_history_passes():
    result = judged(lambda run: None)
    expect(result)
    counts = [result[name] for name in ("sent", "acknowledged", "unknown", "failed", "read", "commits")]
    assert counts == [6, 2, 3, 1, 6, 3], result


def an_acknowledged_record_that_is_lost():
    def spoil(run):
        run.send("p-6", "ok", 4)

    expect(judged(spoil), "lost")


def one_of_acks_1_counts_only_where_the_run_allows():
    def spoil(run):
        run.send("p-6", "ok", 2, acks=1, idempotent=False)

    expect(judged(spoil), "lost-acks-1")

    def allow(run):
        run.write("run", allow=["lost-acks-1"])
        spoil(run)

    result = judged(allow)
    expect(result)
    assert result["allowed"] == {"lost-acks-1": 1}, result


def an_acknowledgement_of_acks_0_promises_nothing():
    expect(judged(lambda run: run.send("p-6", "ok", -1, acks=0, idempotent=False)))


def a_record_that_was_read_and_is_gone():
    def spoil(run):
        run.send("p-6", "unknown")
        run.poll(record(4, "p-6"))

    expect(judged(spoil, end=5), "vanished")


def a_record_of_an_idempotent_producer_at_two_offsets():
    expect(judged(lambda run: None, *CONTENTS, record(4, "p-1")), "duplicate", "reordered")
    # One that comes again right behind itself is in order.
    expect(judged(lambda run: None, *CONTENTS, record(4, "p-4")), "duplicate")
    # One of them only by the word of the acknowledgement.
    result = judged(lambda run: run.send("p-6", "ok", 7), *CONTENTS, record(4, "p-6"))
    expect(result, "duplicate")


def a_duplicate_without_idempotence_is_only_counted():
    def spoil(run):
        run.send("q-0", "ok", 4, client="other", idempotent=False)

    result = judged(spoil, *CONTENTS, record(4, "q-0"), record(5, "q-0"))
    expect(result)
    assert result["allowed"] == {"duplicate-at-least-once": 1}, result


def records_of_one_producer_in_another_order():
    def spoil(run):
        run.send("p-6", "ok", 5)
        run.send("p-7", "ok", 4)

    expect(judged(spoil, *CONTENTS, record(4, "p-7"), record(5, "p-6")), "reordered")


def records_of_two_producers_have_no_order():
    def spoil(run):
        run.send("q-0", "ok", 5, client="q")
        run.send("r-0", "ok", 4, client="r")

    expect(judged(spoil, *CONTENTS, record(4, "r-0"), record(5, "q-0")))


def a_record_that_nobody_sent():
    expect(judged(lambda run: None, *CONTENTS, record(4, "x-0")), "never-sent")


def a_record_in_another_partition():
    def spoil(run):
        run.send("p-6", "unknown", partition=1)

    expect(judged(spoil, *CONTENTS, record(4, "p-6")), "never-sent")


def a_record_that_was_refused():
    expect(judged(lambda run: None, *CONTENTS, record(4, "p-5")), "refused-but-read")


def a_record_with_other_bytes():
    bad = [3, "p-4", checksum("p-4") ^ 1, 1003]
    # The one poll that saw the good one disagrees with the final reads.
    expect(judged(lambda run: None, *CONTENTS[:3], bad), "changed")

    def spoil(run):
        run.send("p-6", "unknown")

    expect(judged(spoil, *CONTENTS, [4, "p-6", checksum("p-6") ^ 1, 1004]), "changed")


def a_timestamp_that_changes():
    expect(judged(lambda run: run.poll([3, "p-4", checksum("p-4"), 77], client="late")), "changed")


def two_values_at_one_offset():
    def polled(run):
        run.send("p-6", "unknown")
        run.poll(record(2, "p-6"), client="other")

    expect(judged(polled), "two-values", "vanished")

    def acknowledged(run):
        run.send("p-6", "ok", 2)

    expect(judged(acknowledged), "lost", "two-values")


def a_gap_in_a_read():
    def spoil(run):
        run.poll(CONTENTS[0], client="other")
        run.poll(CONTENTS[2], client="other")

    expect(judged(spoil), "gap")

    def within_one_poll(run):
        run.poll(CONTENTS[0], CONTENTS[3], client="other")

    expect(judged(within_one_poll), "gap")


def an_offset_without_any_record_is_no_gap():
    def spoil(run):
        run.send("p-6", "ok", 9)
        run.poll(CONTENTS[3], record(9, "p-6"), client="other")

    expect(judged(spoil, *CONTENTS, record(9, "p-6"), end=10))


def a_poll_that_goes_back():
    def spoil(run):
        run.poll(CONTENTS[0], CONTENTS[1], client="other")
        run.poll(CONTENTS[1], client="other")

    expect(judged(spoil), "poll-went-back")

    def after_an_assignment(run):
        run.poll(CONTENTS[0], CONTENTS[1], client="other")
        run.write("assign", client="other")
        run.poll(CONTENTS[1], client="other")

    expect(judged(after_an_assignment))


def an_end_that_goes_back():
    expect(judged(lambda run: (run.ends(4), run.ends(3))), "end-went-back")
    # Below what the same client has read.
    expect(judged(lambda run: run.ends(2)), "end-went-back")
    # Another client may be told an older one while brokers come and go.
    expect(judged(lambda run: run.ends(2, client="other")))
    # But not once all is healed.
    expect(judged(lambda run: run.ends(9, client="other")), "end-went-back")


def a_committed_offset_that_is_lost():
    expect(judged(lambda run: run.committed(None)), "commit-lost")


def a_committed_offset_that_goes_back():
    expect(judged(lambda run: run.committed(1)), "commit-lost")


def a_committed_offset_that_nobody_committed():
    expect(judged(lambda run: run.committed(2)), "commit-lost")


def a_commit_that_was_refused_does_not_count():
    def spoil(run):
        run.commit(2, "fail")
        run.committed(2)

    expect(judged(spoil), "commit-lost")


def a_commit_of_unknown_outcome_may_come_late():
    def spoil(run):
        late = run.begin("commit", "slow", offsets=[[TOPIC, 0, 2]])
        run.commit(4)
        run.committed(4)
        run.end(late, "unknown")
        run.committed(2)

    expect(judged(spoil))


def a_commit_during_a_fetch_may_count_or_not():
    for seen in (4, 2):

        def spoil(run, seen=seen):
            fetch = run.begin("committed", "reader")
            run.commit(2)
            run.end(fetch, "ok", offsets=[[TOPIC, 0, seen]])

        expect(judged(spoil))


def replicas_that_differ():
    def other(run):
        run.final(CONTENTS, brokers=(None, 1, 2))
        run.send("p-6", "unknown")
        run.final([*CONTENTS[:3], record(3, "p-6")], brokers=(3,))

    run = good()
    other(run)
    expect(run.verdict(), "replicas-differ", "two-values", "vanished")


def a_replica_that_has_no_record_where_others_have():
    run = good()
    run.final(CONTENTS, brokers=(None, 1, 2))
    run.final([*CONTENTS[:2], CONTENTS[3]], end=4, brokers=(3,))
    expect(run.verdict(), "replicas-differ")


def a_replica_whose_high_watermark_is_behind_is_none():
    run = good()
    run.final(CONTENTS, brokers=(None, 1, 2))
    run.final(CONTENTS[:2], brokers=(3,))
    expect(run.verdict())


def a_partition_without_a_final_read():
    expect(good().verdict(), "no-final-read")


def time_without_an_acknowledgement():
    run = Run()
    run.send("p-0", "ok", 0)
    run.time = 10_000_000_000
    run.send("p-1", "ok", 1)
    run.final([record(0, "p-0"), record(1, "p-1")])
    assert 9.9 < run.verdict()["unavailable"]["all_s"] < 10.1, run.verdict()


def a_history_that_contradicts_itself_is_refused():
    def twice(run):
        run.send("p-0", "ok", 0)

    def no_beginning(run):
        run.write("produce", ev="ok", id="x", offset=1)

    def unknown_operation(run):
        run.write("txn", client="producer")

    def two_outcomes(run):
        run.write("produce", ev="ok", id="p-0", offset=1)

    for spoil in (twice, no_beginning, unknown_operation, two_outcomes):
        try:
            judged(spoil)
        except BadHistory:
            continue
        raise AssertionError(f"{spoil.__name__} is accepted")


def files_are_read_and_a_torn_last_line_is_not():
    with tempfile.TemporaryDirectory() as folder:
        run = good()
        run.final(CONTENTS)
        text = "".join(json.dumps(line) + "\n" for line in run.lines)
        pathlib.Path(folder, "client.jsonl").write_text(text + '{"op": "pol', encoding="utf-8")
        expect(verdict(read_folder(folder)))
        for extra, status in (("", 0), ('{"op":"ends","t":99,"client":"c","offsets":[["t",0,50]]}\n', 1), ("{}\n", 2)):
            pathlib.Path(folder, "other.jsonl").write_text(extra, encoding="utf-8")
            judge = [sys.executable, "-B", pathlib.Path(__file__).with_name("judge.py"), folder]
            done = subprocess.run(judge, capture_output=True, text=True, check=False)
            assert done.returncode == status, done


def every_rule_has_a_bad_history():
    names = {rule.__name__ for rule in checks.RULES}
    kept, missed = checks.RULES, []
    for rule in kept:
        # Without the rule, one of the tests above has to fail.
        checks.RULES = tuple(one for one in kept if one is not rule)
        try:
            for test in TESTS:
                if test is not every_rule_has_a_bad_history:
                    test()
        except AssertionError:
            continue
        finally:
            checks.RULES = kept
        missed.append(rule.__name__)
    assert names and not missed, missed


TESTS = [
    value
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__module__", None) == __name__
    and name not in ("checksum", "record", "Run", "good", "judged", "expect")
]


def main():
    begin, failed = time.monotonic(), 0
    for test in TESTS:
        outcome = "ok"
        try:
            test()
        except Exception:
            failed, outcome = failed + 1, "FAILED"
            traceback.print_exc(file=sys.stdout)
        print(f"test checker: {test.__name__.replace('_', ' ')} ... {outcome}", flush=True)
    seconds = time.monotonic() - begin
    outcome = "FAILED" if failed else "ok"
    print(
        f"test result: {outcome}. {len(TESTS) - failed} passed; {failed} failed; 0 ignored; finished in {seconds:.1f}s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
