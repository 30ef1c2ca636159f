#!/usr/bin/env bash
# A large file through kcat, in with every codec and out byte for byte: as it was produced, after a clean restart, and
# after kill -9; the same over 16 partitions on two shards; from an offset and from a timestamp in the middle.
#
#   LOGMILL_CI_LINES  lines of the file; at least 1,000,000 unless it says otherwise
#   LOGMILL_CI_BIN    the broker's binary; see ../broker.sh
. "$(dirname "${BASH_SOURCE[0]}")/../broker.sh"

lines=${LOGMILL_CI_LINES:-1000000}
input=$work/input
codecs=(none gzip snappy lz4 zstd)

# Real text: the package lists of the distribution, or else the lists of the installed files, as often as needed.
# Empty lines are left out, because kcat produces nothing for them.
make_input() {
    local sources=("$work/sources") file
    : >"$work/sources"
    for file in /var/lib/apt/lists/*_Packages*; do
        [ -f "$file" ] && /usr/lib/apt/apt-helper cat-file "$file" >>"$work/sources" 2>/dev/null
    done
    cat /var/lib/dpkg/info/*.list >>"$work/sources"
    while [ "$(grep -c . "${sources[0]}")" -lt "$lines" ]; do
        cat /var/lib/dpkg/info/*.list >>"$work/sources"
    done
    # Not through a pipe that head closes early: that would count as a failure.
    grep . "$work/sources" >"$work/filled"
    head -n "$lines" "$work/filled" >"$input"
    rm "$work/sources" "$work/filled"
    [ "$(wc -l <"$input")" -eq "$lines" ]
}

produce() { # TOPIC CODEC [OPTION...] <LINES
    local topic=$1 codec=$2
    shift 2
    timeout 300 kcat -P -b "$bootstrap" -t "$topic" -z "$codec" -X acks=all -X enable.idempotence=true "$@"
}

consume() { # TOPIC [OPTION...]
    local topic=$1
    shift
    timeout 300 kcat -C -q -b "$bootstrap" -t "$topic" -e -X check.crcs=true "$@"
}

same() { # EXPECTED: compares it with what comes in.
    cmp - "$1"
}

in_with_codec() {
    produce "one-$1" "$1" <"$input" && out_with_codec "$1"
}

out_with_codec() {
    consume "one-$1" -o beginning | same "$input"
}

# In every partition the offsets are 0, 1, 2, …; every line is there once; and the lines of one key keep their order.
in_with_partitions() {
    awk '{ print NR % 997 "\t" $0 }' "$input" >"$work/keyed"
    sort -s -t "$(printf '\t')" -k1,1 "$work/keyed" >"$work/keyed.sorted"
    produce many lz4 -K '\t' <"$work/keyed" && out_with_partitions
}

out_with_partitions() {
    consume many -o beginning -f '%p\t%o\t%k\t%s\n' >"$work/out" &&
        awk -F '\t' '
            $2 != next_offset[$1] + 0 { print "partition " $1 ": offset " $2 " after " next_offset[$1] - 1; bad = 1; exit 1 }
            { next_offset[$1] = $2 + 1 }
            END { for (p in next_offset) n++; if (!bad && n != 16) { print n " partitions have lines"; exit 1 } exit bad }
        ' "$work/out" &&
        cut -f 3- "$work/out" | sort -s -t "$(printf '\t')" -k1,1 | same "$work/keyed.sorted"
}

from_offsets() {
    local middle=$((lines / 2 + 1))
    consume one-zstd -o "$middle" | same <(tail -n "+$((middle + 1))" "$input") &&
        consume one-gzip -o -1000 | same <(tail -n 1000 "$input") &&
        consume one-none -o "$((lines - 1))" | same <(tail -n 1 "$input") &&
        consume one-lz4 -o 12345 -c 10 | same <(sed -n '12346,12355p;12355q' "$input")
}

# Produces two halves with a moment between them that belongs to neither.
in_around_a_moment() {
    head -n "$((lines / 20))" "$input" >"$work/before"
    tail -n "$((lines / 20))" "$input" >"$work/after"
    produce moments snappy <"$work/before"
    sleep 0.1
    moment=$(date +%s%3N)
    sleep 0.1
    produce moments zstd <"$work/after"
    from_timestamps
}

from_timestamps() {
    consume moments -o "s@$moment" | same "$work/after" &&
        consume moments -o s@0 -o "e@$moment" | same "$work/before" &&
        [ "$(consume moments -o "s@$((moment + 86400000))" | wc -l)" -eq 0 ]
}

everything_again() { # WHEN
    local codec
    for codec in "${codecs[@]}"; do
        check "$codec, $1" out_with_codec "$codec"
    done
    check "16 partitions, $1" out_with_partitions
    check "from timestamps, $1" from_timestamps
}

# Tests the suite itself: a byte that differs, a line that is missing and one too many are seen.
differences_are_seen() {
    printf 'a\nb\n' >"$work/expected"
    printf 'a\nb\n' | same "$work/expected" || return 1
    local wrong
    for wrong in 'a\nc\n' 'a\n' 'a\nb\nb\n' ''; do
        ! printf "$wrong" | same "$work/expected" >/dev/null 2>&1 || return 1
    done
}

check "a file of $lines lines" make_input
check "differences are seen" differences_are_seen
settings=(logmill.shards=2 num.partitions=1)
broker_start "${settings[@]}"
for codec in "${codecs[@]}"; do
    check "$codec, in and out" in_with_codec "$codec"
done
check "from offsets" from_offsets
check "from timestamps" in_around_a_moment
# What is created from here on has 16 partitions.
check "a clean stop" broker_stop
broker_start logmill.shards=2 num.partitions=16
check "16 partitions, in and out" in_with_partitions
check "a second clean stop" broker_stop
broker_start "${settings[@]}"
everything_again "after a clean restart"
broker_kill
broker_start "${settings[@]}"
everything_again "after kill -9"
finish
