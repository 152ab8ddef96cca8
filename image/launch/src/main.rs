//! corbel: being built.
fn main() {}
