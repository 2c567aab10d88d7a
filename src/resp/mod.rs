//! (room resp)
