//! The real machine: one thread, one ring, one executor per shard.
