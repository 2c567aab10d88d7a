//! (room lifecycle)
