//! The binary `conclave-ds`.

fn main() {}
