//! Bounded lock-free mailboxes between shards.
