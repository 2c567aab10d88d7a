//! The layers fetched from where they are: the one impure step.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::thread;

use super::settings::{self, Assignment, CONFIG_VARIABLE, Layer, Origin, Problem, Problems, Settings};
use super::validate::{self, Host};
use super::{Config, SecretSource, file, machine};

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

/// Reads all layers. Secret files are read once, so that a wrong path shows now and not at the
/// first login.
pub(crate) fn load(flags: Flags) -> Result<Loaded, Problems> {
    let (variables, mut problems) = respmux_variables();
    let mut layers = Vec::new();
    match read_file(flags.file, &variables) {
        Ok(layer) => layers.extend(layer),
        Err(problem) => problems.push(problem),
    }
    layers.push(settings::environment(&variables));
    layers.push(Layer { assignments: flags.assignments, problems });
    let settings = Settings::merge(layers)?;
    let (config, warnings) = validate::validate(&settings, Host::detect())?;
    if let Some(source @ SecretSource::File(_)) = &config.upstream.password
        && let Err(error) = source.read()
    {
        let origin = settings.entry("upstream.password_file").origin.clone();
        let reason = format!("upstream.password_file: {error}");
        return Err(Problems(vec![Problem::at(origin, reason)]));
    }
    for user in &config.auth.users {
        if let Some((_, source)) = &user.upstream
            && let Err(error) = source.read()
        {
            let reason = format!("auth.users: {:?}: upstream_password_file: {error}", user.name);
            return Err(Problems(vec![Problem::at(settings.entry("auth.users").origin.clone(), reason)]));
        }
    }
    Ok(Loaded { config, settings, warnings })
}

/// Variables of ours; one that is not UTF-8 is a problem.
fn respmux_variables() -> (Vec<(String, String)>, Vec<Problem>) {
    let (mut variables, mut problems) = (Vec::new(), Vec::new());
    let ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"RESPMUX_");
    for (name, value) in env::vars_os().filter(|(name, _)| ours(name)) {
        match (name.clone().into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => variables.push((name, value)),
            _ => {
                let name = name.to_string_lossy().into_owned();
                problems.push(Problem::at(Origin::Environment(name), "the value is not UTF-8"));
            }
        }
    }
    (variables, problems)
}

/// The configuration file, if there is one.
pub(super) fn file_path(flags: &Flags) -> Option<PathBuf> {
    let variable = || env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    flags.file.clone().or_else(variable)
}

fn read_file(flag: Option<PathBuf>, variables: &[(String, String)]) -> Result<Option<Layer>, Problem> {
    let variable = variables.iter().find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty());
    let (path, origin) = match (flag, variable) {
        (Some(path), _) => (path, Origin::Flag("--config".to_owned())),
        (None, Some((name, path))) => (PathBuf::from(path), Origin::Environment(name.clone())),
        (None, None) => return Ok(None),
    };
    let name = path.display().to_string();
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(file::read(&name, &text))),
        Err(error) => Err(Problem::at(origin, format!("{name}: {error}"))),
    }
}

impl Host {
    pub(super) fn detect() -> Self {
        Self {
            parallelism: thread::available_parallelism().map_or(1, usize::from),
            open_files: rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(_, hard)| hard),
            memory: machine::memory(),
            random: fastrand::u64(..),
        }
    }
}
