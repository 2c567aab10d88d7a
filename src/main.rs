//! The respmux program: reads its configuration, runs the library, answers with an exit code.

use std::env;
use std::process::ExitCode;

use respmux::cli::{self, Begin};
use respmux::{lifecycle, telemetry};

fn main() -> ExitCode {
    let (config, warnings, source) = match cli::begin(env::args_os()) {
        Begin::Run { config, warnings, source } => (*config, warnings, *source),
        Begin::Exit(code) => return code,
    };
    telemetry::log::init(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match lifecycle::run(config, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            if lifecycle::is_lasting(&error) { cli::BAD_CONFIGURATION.into() } else { ExitCode::FAILURE }
        }
    }
}
