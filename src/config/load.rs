//! The layers fetched from where they are: the one impure step.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::layers::{self, Assignment, CONFIG_VARIABLE, Layer};
use super::machine::Host;
use super::settings::{Origin, Problems, Settings};
use super::{Config, SecretSource, file};

/// The command line as far as it is about configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
    /// All others.
    pub(crate) assignments: Vec<Assignment>,
}

/// A configuration, and what is worth saying about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) settings: Settings,
    pub(crate) warnings: Vec<String>,
}

/// Reads all layers. Secret files are read once, so that a wrong path shows now and not at the first login.
pub(crate) fn load(flags: Flags) -> Result<Loaded, Problems> {
    let (variables, mut problems) = respmux_variables();
    let mut layers = Vec::new();
    match read_file(&flags) {
        Ok(layer) => layers.extend(layer),
        Err(problem) => problems.push(problem),
    }
    layers.push(layers::environment(&variables));
    layers.push(Layer { assignments: flags.assignments, problems });
    let settings = layers::merge(layers)?;
    let (config, warnings) = Config::build(&settings, Host::detect())?;
    check_secret_files(&config, &settings)?;
    Ok(Loaded { config, settings, warnings })
}

fn check_secret_files(config: &Config, settings: &Settings) -> Result<(), Problems> {
    let upstream = config.upstream.password.iter().map(|source| (source, "upstream.password_file", String::new()));
    let users = config.auth.users.iter().filter_map(|user| {
        let (_, source) = user.upstream.as_ref()?;
        Some((source, "auth.users", format!(" {:?}: upstream_password_file:", user.name)))
    });
    for (source, path, whose) in upstream.chain(users) {
        if let (SecretSource::File(_), Err(error)) = (source, source.read()) {
            return Err(Problems::of(format!("{}: {path}:{whose} {error}", settings.origin(path))));
        }
    }
    Ok(())
}

/// Variables of ours; one that is not UTF-8 is a problem.
fn respmux_variables() -> (Vec<(String, String)>, Vec<String>) {
    let (mut variables, mut problems) = (Vec::new(), Vec::new());
    let ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"RESPMUX_");
    for (name, value) in env::vars_os().filter(|(name, _)| ours(name)) {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => variables.push((name, value)),
            (name, _) => {
                let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
                problems.push(format!("{name}: the value is not UTF-8"));
            }
        }
    }
    (variables, problems)
}

/// The configuration file, if there is one, and where it was named.
pub(super) fn file_path(flags: &Flags) -> Option<(PathBuf, Origin)> {
    let variable = env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty());
    match (&flags.file, variable) {
        (Some(path), _) => Some((path.clone(), Origin::Flag("--config".to_owned()))),
        (None, Some(path)) => Some((path.into(), Origin::Environment(CONFIG_VARIABLE.to_owned()))),
        (None, None) => None,
    }
}

fn read_file(flags: &Flags) -> Result<Option<Layer>, String> {
    let Some((path, origin)) = file_path(flags) else { return Ok(None) };
    let name = path.display().to_string();
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(file::read(&name, &text))),
        Err(error) => Err(format!("{origin}: {name}: {error}")),
    }
}
