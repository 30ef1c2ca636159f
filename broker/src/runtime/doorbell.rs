//! The sleep/wake handshake between shards: a sender never misses a sleeper, and a shard that is awake is
//! never disturbed by a system call.
