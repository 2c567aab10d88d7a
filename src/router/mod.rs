//! (room router)
