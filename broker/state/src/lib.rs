//! Pure state machines of the broker, without clock, socket, file or random source.
