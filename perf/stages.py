#!/usr/bin/env python3
"""Attributes the samples of a broker's profile to the stages of its work.

    perf script ... | perf/stages.py --pid PID --inodes FILE --result JSON --flame-graph FILE.svg

Standard input is what `perf script -F comm,pid,tid,time,event,trace,ip,sym,dso` prints of cpu-clock samples with call
chains and of the tracepoint iomap:iomap_dio_rw_begin, which says which file a direct read or write is for. The file of
inodes has lines "INODE STAGE". The JSON is a result of `logmill-bench run`: its CPU time per request and per byte is what
the shares are shares of.
"""

import argparse
import collections
import html
import json
import re
import sys

# Kernel functions that name an operation, and what they stand for. Of several in one chain the one nearest to the
# system call counts: a send on loopback runs the receiver's half of TCP as well, and pays for it.
OPERATIONS = [
    (re.compile(r"^(io_recv|io_recvmsg|__x64_sys_recv\w*|sock_recvmsg)$"), "recv"),
    (re.compile(r"^(io_send|io_sendmsg|io_send_zc|__x64_sys_send\w*|sock_sendmsg)$"), "send"),
    (re.compile(r"^(io_write|__io_write|__x64_sys_p?write\w*)$"), "write"),
    (re.compile(r"^(io_read|__io_read|__x64_sys_p?read\w*)$"), "read"),
    (re.compile(r"^(io_fsync|__x64_sys_f(data)?sync)$"), "fdatasync"),
    (re.compile(r"^(io_fallocate|io_ftruncate|__x64_sys_f(allocate|truncate))$"), "space"),
    (re.compile(r"^(io_openat2?|io_close|io_renameat|io_unlinkat|__x64_sys_open\w*|__x64_sys_close)$"), "names"),
    (re.compile(r"^(io_accept|io_connect|io_shutdown)$"), "connections"),
    # Requests for the disk leave the block layer when the kernel has taken all of a submission's entries.
    (re.compile(r"^(blk_finish_plug|__blk_flush_plug)$"), "write"),
    (re.compile(r"^(io_msg_ring\w*|io_eventfd_signal\w*|eventfd_\w+)$"), "wake another shard"),
    (re.compile(r"^(io_cqring_wait\w*|io_cqring_schedule_timeout|schedule|io_wq_worker)$"), "sleep and be woken"),
    (re.compile(r"^(io_submit_sqes|tctx_task_work\w*|io_\w+|__do_sys_io_uring_enter|__x64_sys_io_uring_enter)$"), "ring"),
    (re.compile(r"^(do_syscall_64|entry_SYSCALL\w*|syscall_\w+|x64_sys_call|__x64_sys_\w+)$"), "other calls"),
]
STAGE_OF_OPERATION = {
    "recv": "receive", "send": "send", "fdatasync": "segment", "space": "segment", "names": "segment",
    "wake another shard": "wake", "sleep and be woken": "wake", "ring": "ring", "connections": "other",
    "other calls": "other", "write": "journal", "read": "fetch",
}
INTERRUPTS = re.compile(r"^(asm_sysvec_\w+|asm_common_interrupt|common_interrupt|sysvec_\w+|irq_exit_rcu)$")
INTERRUPTS_BY_WORK = [
    (re.compile(r"virtblk|nvme|blk_|bio_|iomap_"), "interrupt: disk"),
    (re.compile(r"net_rx_action|tcp_"), "interrupt: packets"),
    (re.compile(r"^(schedule|__schedule|preempt_schedule\w*)$"), "interrupt: another thread's turn"),
]
FAULTS = re.compile(r"^(asm_exc_page_fault|exc_page_fault)$")

# The broker's own functions. The nearest of them above a sample says the stage; those that serve many stages (copies,
# checksums, the allocator, tasks) are in the list's end and count only if no other is in the chain.
FUNCTIONS = [(re.compile(pattern), stage) for pattern, stage in [
    (r"request::(fetch|list_offsets)|partition::lookup|log::reader|fetch_session", "fetch"),
    (r"encode_partitions|produce::(finish|push_success)|Answers::within|on_durable|answer_when_due|log::pending"
     r"|Log<.*>::committed|gather::|note_written|release_written", "ack"),
    (r"record_batch::validate|record_batch::batches|record_batch::computed_crc|carry_out|Partition<.*>::decide"
     r"|record_batch::crc", "validate"),
    (r"log::write_caching|journal::write_cache|write_cach", "cache"),
    (r"log::filler|log::checkpoint|log::segment|log::index|log::directory", "segment"),
    (r"log::committer|logmill::journal|frame::journal|Journal<", "journal"),
    (r"state::partition|partition::hosted|partition::table|log::appender|log::tail|log::store|record_batch::assign"
     r"|partition::router|node::post", "append"),
    (r"net::replies|ReplyQueue|send_replies", "send"),
    (r"request::|api::|primitives::|state::metadata|state::admission", "decode"),
    (r"net::frames|FrameReader|net::connection|shard::memory", "receive"),
]]
OWN = re.compile(r"logmill(_wire|_state)?(::|\.\.)")
GENERIC = [
    (re.compile(r"runtime::(mailbox|doorbell|uring::kick)"), "wake"),
    (re.compile(r"runtime::|io_uring::"), "tasks"),
]
STAGES = [
    ("receive", "bytes from the socket into the request's memory"),
    ("decode", "the walk over the request, topics, authorizer, the handler"),
    ("validate", "the batch's header, checksum and records"),
    ("append", "the leader's decision, the copy into the tail, the index"),
    ("cache", "the copy into the write cache's ring"),
    ("journal", "the group commit: frames, checksums, the durable write"),
    ("segment", "writes of whole pages, checkpoints, flushes, space"),
    ("ack", "what is durable to those who wait, and their responses"),
    ("fetch", "reads, views, sessions"),
    ("send", "responses into the socket"),
    ("wake", "sleeping, and waking another shard"),
    ("tasks", "executor, timers, mailboxes, operations of the ring"),
    ("ring", "the kernel's half of the ring"),
    ("interrupt", "interrupts in the middle of something"),
    ("other", "what no rule names"),
]


def samples_of(lines):
    """Yields (command, process, thread, event, text of a tracepoint, frames), frames from the leaf as (function, is of
    the kernel)."""
    head = re.compile(r"^\s*(.+?)\s+(-?\d+)/(\d+)\s+[\d.]+:\s+(?:\d+\s+)?(\S+):(?:\s+(.*))?$")
    frame = re.compile(r"^\s+([0-9a-f]+)\s+(.*?)\s+\((.*)\)$")
    current = None
    for line in lines:
        if match := frame.match(line):
            if current:
                name = re.sub(r"\+0x[0-9a-f]+$", "", match[2])
                current[5].append((tidy(name), "kernel" in match[3]))
        elif match := head.match(line):
            if current:
                yield current
            current = (match[1], match[2], match[3], match[4], match[5] or "", [])
    if current:
        yield current


def tidy(name):
    """A function's name without its hash and its types' types."""
    name = re.sub(r"::h[0-9a-f]{16}$", "", name)
    for code, sign in (("$LT$", "<"), ("$GT$", ">"), ("$u7b$", "{"), ("$u7d$", "}"), ("$u20$", " "), ("$RF$", "&"), ("$C$", ",")):
        name = name.replace(code, sign)
    return name.replace("..", "::").replace("<logmill::runtime::uring::UringRuntime>", "<R>")


def stage_of_functions(names):
    for name in names:
        if not OWN.search(name) or any(rule.search(name) for rule, _ in GENERIC):
            continue
        for rule, stage in FUNCTIONS:
            if rule.search(name):
                return stage
    for name in names:
        for rule, stage in GENERIC:
            if rule.search(name):
                return stage
    return "other"


def classify(frames, last_file):
    """The stage, and what was done: an operation of the kernel, or "user"."""
    kernel = [name for name, is_kernel in frames if is_kernel]
    user = [name for name, is_kernel in frames if not is_kernel]
    if not kernel:
        return stage_of_functions(user), "user"
    if any(INTERRUPTS.match(name) for name in kernel):
        for rule, operation in INTERRUPTS_BY_WORK:
            if any(rule.search(name) for name in kernel):
                return "interrupt", operation
        return "interrupt", "interrupt: other"
    if any(FAULTS.match(name) for name in kernel):
        return stage_of_functions(user), "page fault"
    for rule, operation in OPERATIONS:
        if any(rule.match(name) for name in reversed(kernel)):
            if operation in ("write", "read"):
                return last_file, operation
            return STAGE_OF_OPERATION[operation], operation
    return "other", "other calls"


def flame_graph(stacks, total, title):
    """An SVG of nested bars, widest first; hovering shows a bar's name and share."""
    width, height, least = 1400.0, 16, 0.0015
    root = {}
    for stack, count in stacks.items():
        level = root
        for name in stack:
            entry = level.setdefault(name, [0, {}])
            entry[0] += count
            level = entry[1]
    bars, depth_max = [], 0

    def lay(level, x, depth):
        nonlocal depth_max
        for name, (count, below) in sorted(level.items(), key=lambda item: (-item[1][0], item[0])):
            share = count / total
            if share >= least:
                depth_max = max(depth_max, depth)
                bars.append((x, depth, share * width, name, share))
                lay(below, x, depth + 1)
            x += share * width

    lay(root, 0.0, 0)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {(depth_max + 3) * height}"'
        ' font-family="monospace" font-size="11">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="4" y="13">{html.escape(title)}</text>',
    ]
    for x, depth, bar, name, share in bars:
        y = (depth_max + 1 - depth) * height + height / 2
        kernel = name.endswith("_[k]")
        hue = sum(map(ord, name)) % 40
        color = f"hsl({200 + hue},60%,75%)" if kernel else f"hsl({10 + hue},80%,70%)"
        shown = html.escape(name[: max(0, int(bar / 6.7))]) if bar > 25 else ""
        out.append(
            f'<g><title>{html.escape(name)} {share:.2%}</title><rect x="{x:.1f}" y="{y:.0f}" width="{max(bar - 0.3, 0.3):.1f}"'
            f' height="{height - 1}" fill="{color}"/><text x="{x + 2:.1f}" y="{y + 11:.0f}">{shown}</text></g>'
        )
    out.append("</svg>")
    return "\n".join(out) + "\n"


def short(name):
    name = re.sub(r"^<(.*)>$", r"\1", name)
    return name if len(name) <= 110 else name[:107] + "..."


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pid", required=True)
    parser.add_argument("--inodes", required=True)
    parser.add_argument("--result", required=True)
    parser.add_argument("--flame-graph", required=True)
    parser.add_argument("--title", default="profile")
    options = parser.parse_args()
    with open(options.inodes) as file:
        files = {int(inode): stage for inode, stage in (line.split() for line in file)}
    with open(options.result) as file:
        result = json.load(file)

    last_file = collections.defaultdict(lambda: "journal")
    writes, stages, operations = collections.Counter(), collections.Counter(), collections.Counter()
    selves, stacks = collections.defaultdict(collections.Counter), collections.Counter()
    others = collections.Counter()
    for command, process, thread, event, text, frames in samples_of(sys.stdin):
        if process != options.pid:
            # What the kernel does for the broker in threads of its own is in no process's CPU time.
            if command.startswith(("kworker", "ksoftirqd")) and not event.startswith("iomap:"):
                others[command.split("/")[0]] += 1
            continue
        if event.startswith("iomap:"):
            if match := re.search(r"ino 0x([0-9a-f]+) .*length 0x([0-9a-f]+)", text):
                stage = files.get(int(match[1], 16), "segment")
                kind = stage if "WRITE" in text else "fetch"
                last_file[thread] = kind
                writes[kind, "count"] += 1
                writes[kind, "bytes"] += int(match[2], 16)
            continue
        if not frames:
            continue
        stage, operation = classify(frames, last_file[thread])
        stages[stage, operation] += 1
        operations[operation] += 1
        leaf, is_kernel = frames[0]
        selves[stage][("[k] " if is_kernel else "") + short(leaf), operation] += 1
        stacks[(stage, *(name + ("_[k]" if is_kernel else "") for name, is_kernel in reversed(frames)))] += 1
    total = sum(operations.values())
    if total == 0:
        sys.exit("stages.py: no samples; did the broker run, and may perf record here?")

    broker = result["broker"]
    request_ns = broker["cpu_us_per_request"] * 1000
    byte_ns = broker["cpu_seconds_per_gb"]
    usage = broker["usage"]
    # A CPU second per 10^9 bytes is a nanosecond per byte.
    print(f"{options.title}: {total} samples; {request_ns / 1000:.1f} CPU-us per request, {byte_ns:.4f} CPU-ns per byte"
          f" (user {usage['user_seconds']:.2f} s, system {usage['system_seconds']:.2f} s)")
    for kind in sorted({kind for kind, _ in writes}):
        count, size = writes[kind, "count"], writes[kind, "bytes"]
        print(f"direct {'reads' if kind == 'fetch' else 'writes, ' + kind}: {count} of {size / count / 1024:.1f} KiB")
    print(f"\n{'stage':<10}{'share':>7}{'user':>7}{'kernel':>7}{'ns/request':>12}{'ns/byte':>9}  what")
    for stage, what in STAGES:
        count = sum(n for (s, _), n in stages.items() if s == stage)
        user = stages[stage, "user"]
        if count:
            print(f"{stage:<10}{count / total:>7.1%}{user / total:>7.1%}{(count - user) / total:>7.1%}"
                  f"{request_ns * count / total:>12.0f}{byte_ns * count / total:>9.4f}  {what}")
    print(f"\n{'operation':<34}{'share':>7}{'ns/request':>12}")
    for operation, count in operations.most_common():
        print(f"{operation:<34}{count / total:>7.1%}{request_ns * count / total:>12.0f}")
    for command, count in others.most_common(4):
        print(f"{command} threads: {count / total:.1%} of the broker's CPU time, beside it")
    print("\nfunctions, by what they themselves take")
    for stage, _ in STAGES:
        for (name, operation), count in selves[stage].most_common(12):
            if count / total >= 0.003:
                print(f"{stage:<10}{count / total:>6.1%}  {name}" + (f"  ({operation})" if operation != "user" else ""))
    print("\nfunctions over all stages")
    everywhere = collections.Counter()
    for counts in selves.values():
        for (name, _), count in counts.items():
            everywhere[name] += count
    for name, count in everywhere.most_common(30):
        print(f"{count / total:>6.1%}  {name}")
    with open(options.flame_graph, "w") as file:
        file.write(flame_graph(stacks, total, f"{options.title}: {total} samples of CPU time"))


main()
