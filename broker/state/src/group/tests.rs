//! What groups of all kinds have in common.

use super::*;

#[test]
fn a_group_lies_where_kafka_puts_it() {
    // Java: "console-consumer-1234".hashCode() & 0x7fffffff, and a hash whose sign is set.
    assert_eq!(partition_of("", 50), 0);
    assert_eq!(partition_of("a", 50), 97 % 50);
    assert_eq!(partition_of("group", 50), 98_629_247 % 50);
    assert_eq!(partition_of("polygenelubricants", 50), 0);
}
