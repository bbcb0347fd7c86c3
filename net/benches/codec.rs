//! Micro-benchmarks of the codec and the session.
fn main() {}
