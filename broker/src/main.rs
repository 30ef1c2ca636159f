//! The broker's executable.

fn main() {}
