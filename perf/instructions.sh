#!/usr/bin/env bash
# Counts the instructions of the pure code on the hot paths under callgrind, and compares them with what is on record:
# counts do not depend on the host's load, so that 1 % more is 1 % more.
#   perf/instructions.sh            compares with perf/instructions.txt; fails if a case takes over 5 % more
#   perf/instructions.sh --record   writes that file anew, after a change that is meant
# The first line on record says with what it was counted. With another compiler, C library or processor nothing is compared:
# then record before a change, and compare after it.
# Environment: CARGO (how cargo is called), BENCHMARK (a built binary of the benchmark, instead of building one).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
recorded=$root/perf/instructions.txt
case ${1:-} in
    "" | --record) ;;
    *) echo "usage: perf/instructions.sh [--record]" >&2; exit 2 ;;
esac
command -v valgrind >/dev/null || { echo "instructions.sh: valgrind is missing; install it" >&2; exit 2; }
binary=${BENCHMARK:-}
if [ -z "$binary" ]; then
    built=$(cd "$root" && ${CARGO:-cargo} bench --profile test-release -p logmill-state --bench instructions --no-run 2>&1) ||
        { echo "$built" >&2; exit 1; }
    binary=$root/$(sed -n 's/.*Executable .*(\(.*\))$/\1/p' <<<"$built" | sed "s|^$root/||")
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/logmill-instructions.XXXXXX")
trap 'rm -rf "$work"' EXIT
# One dump for each case, when `counted` returns, of what was counted since it called `repeat`.
valgrind --tool=callgrind --zero-before='instructions::repeat*' --dump-after='instructions::counted*' \
    --callgrind-out-file="$work/counts" "$binary" >"$work/cases" 2>"$work/log" ||
    { cat "$work/log" >&2; exit 1; }
counted_with="# $(uname -m), $(rustc --version | cut -d' ' -f1-2), $(ldd --version | sed -n '1s/.* /libc /p'), $(valgrind --version)"
python3 - "$work" "$recorded" "${1:-}" "$counted_with" <<'END'
import pathlib
import re
import sys

OPERATIONS, TOLERANCE = 64, 1.05
work, recorded, mode, counted_with = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), *sys.argv[3:]
cases = [line.split() for line in (work / "cases").read_text().splitlines()]
counts = []
for number in range(1, len(cases) + 1):
    text = (work / f"counts.{number}").read_text()
    counts.append(int(re.search(r"^(?:summary|totals): (\d+)", text, re.M)[1]))
if not cases or 0 in counts:
    sys.exit("instructions.sh: callgrind counted nothing; are `counted` and `repeat` still functions of the benchmark?")
before = {}
recorded_with, *old = recorded.read_text().splitlines() if recorded.exists() else [counted_with]
if recorded_with == counted_with:
    before = {name: int(count) for name, count, *_ in map(str.split, old)}
worse, lines = [], []
print(f"{'case':<34}{'instructions':>13}{'per unit':>11} {'unit':<10}{'recorded':>13}")
for (name, units, unit), count in zip(cases, counts):
    each = count // OPERATIONS
    lines.append(f"{name} {each} {units} {unit}\n")
    old = before.get(name)
    change = f"{old:>13} {each / old - 1:+.1%}" if old else f"{'-':>13}"
    print(f"{name:<34}{each:>13}{each / int(units):>11.2f} {unit:<10}{change}")
    if old and each > old * TOLERANCE:
        worse.append(name)
if mode == "--record":
    recorded.write_text(f"{counted_with}\n" + "".join(lines))
    print(f"recorded: {recorded}")
elif recorded_with != counted_with:
    print(f"not compared: this is {counted_with[2:]}; on record is {recorded_with[2:]}")
else:
    unknown = sorted(before.keys() ^ {name for name, *_ in cases})
    if unknown:
        sys.exit(f"instructions.sh: recorded and counted cases differ ({', '.join(unknown)}); run it with --record")
    if worse:
        sys.exit(f"instructions.sh: over 5 % more than recorded: {', '.join(worse)}; if that is meant, run it with --record")
END
