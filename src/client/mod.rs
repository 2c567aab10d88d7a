//! (room client)
