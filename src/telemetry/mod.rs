//! (room telemetry)
pub mod log;
