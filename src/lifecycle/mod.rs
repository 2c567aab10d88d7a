//! (room lifecycle)
pub mod embedded;

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(_config: crate::config::Config) -> anyhow::Result<()> {
    anyhow::bail!("respmux cannot run yet")
}
