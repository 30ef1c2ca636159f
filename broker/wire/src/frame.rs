//! Logmill's own durable and peer frames: rkyv headers of fixed size, checked at compile time.
