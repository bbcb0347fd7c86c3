//! Criterion: slots.

fn main() {}
