//! The respmux program.
fn main() {}
