//! The simulated machine: network, disk and clocks, deterministic to the seed.
