//! The command line: which task it asks for, and the tasks that need no running proxy (`check`, `config`, `hash-password`).
//!
//! Owns the subcommands, their help and their exit codes. [`main`] is the program's entry; it starts `lifecycle` or `tools`.
//!
//! The flags are built from the table of keys in `config`, so that help, names and meaning are the table's. Values are
//! checked here rather than by clap, whose errors quote them: a URL may hold a password.

mod arguments;
mod password;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use clap::error::ErrorKind;

use arguments::{command, flags};

use crate::auth;
use crate::config::{self, Config, Endpoint, Flags, Listen, Loaded, Problems};
use crate::lifecycle;
use crate::lifecycle::preflight::{self, Tried};
use crate::telemetry;
use crate::tools::{self, PingTarget, Show};

/// EX_CONFIG of sysexits: a supervisor should not start the program again.
const BAD_CONFIGURATION: u8 = 78;

/// How long a question to a running proxy may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The program: does what the command line asks for, and returns the exit code.
///
/// 0: done. 1: what was asked is not well, or the proxy ended with an error. 2: usage. 78: the configuration is bad, or
/// a file that it names.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let task = match parse(arguments) {
        Ok(task) => task,
        Err(error) => {
            // Also --help and --version, with exit code 0. A closed stdout is no reason to panic.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match task {
        Task::Run(flags) => match load_all(flags.clone()) {
            Ok(loaded) => run(loaded, flags),
            Err(problems) => refuse(&problems, BAD_CONFIGURATION),
        },
        Task::Check(flags, look) => check(flags, look),
        Task::Print(flags) => match load(flags) {
            Ok(loaded) => say(&config::merged(&loaded)),
            Err(problems) => refuse(&problems, BAD_CONFIGURATION),
        },
        Task::Example => say(&tools::example()),
        Task::HashPassword => hash_password(),
        Task::Schema => say(&tools::schema()),
        Task::Reference => say(&tools::reference()),
        Task::Completions(shell) => write(&tools::completions(command(), shell)),
        Task::Manual => match tools::manual(command()) {
            Ok(page) => write(&page),
            Err(error) => fail(&error.to_string()),
        },
        Task::Ask(question, flags) => match load(flags) {
            Ok(loaded) => ask(&question, &loaded.config),
            Err(problems) => refuse(&problems, BAD_CONFIGURATION),
        },
    }
}

/// Runs the proxy until it has drained. The log is set up first, so the warnings of the configuration are in it.
fn run(loaded: Loaded, flags: Flags) -> ExitCode {
    let Loaded { config, warnings, settings } = loaded;
    telemetry::log::init(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match lifecycle::run(config, config::Source::new(flags, settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            if lifecycle::is_lasting(&error) { BAD_CONFIGURATION.into() } else { ExitCode::FAILURE }
        }
    }
}

/// Asks a running proxy, found by the configuration it has. Exit code 1 when it is not well.
fn ask(question: &LiveQuery, config: &Config) -> ExitCode {
    let admin = config.admin.ok_or_else(|| "the admin endpoint is off".to_owned());
    let answer = match question {
        LiveQuery::Ping { url } => ping(url.as_deref(), config),
        LiveQuery::Health { ready } => {
            let page = if *ready { "/readyz" } else { "/livez" };
            admin.and_then(|admin| tools::health(admin, page, PATIENCE)).map(|body| format!("{body}\n"))
        }
        LiveQuery::Stat { interval, count } => admin
            .and_then(|admin| tools::stat(admin, *interval, *count, &mut io::stdout().lock()))
            .map(|()| String::new()),
        LiveQuery::Top { url, interval, show } => target(url.as_deref(), config)
            .and_then(|target| tools::top(&target, *interval, PATIENCE, *show, &mut io::stdout().lock()))
            .map(|()| String::new()),
    };
    answer.map_or_else(|error| fail(&error), |text| say(&text))
}

fn ping(url: Option<&str>, config: &Config) -> Result<String, String> {
    let took = target(url, config).and_then(|target| tools::ping(&target, PATIENCE))?;
    Ok(format!("PONG {:.3} ms\n", took.as_secs_f64() * 1e3))
}

/// Who is asked over RESP: the URL, else the first address that the configuration listens on.
fn target(url: Option<&str>, config: &Config) -> Result<PingTarget, String> {
    match url {
        Some(url) => {
            config::parse_url(url).map(|(endpoint, username, password)| PingTarget { endpoint, username, password })
        }
        None => own_endpoint(&config.listen[0]).map(|endpoint| PingTarget { endpoint, username: None, password: None }),
    }
}

/// Where a client of this host reaches what listens there.
fn own_endpoint(listen: &Listen) -> Result<Endpoint, String> {
    match listen {
        Listen::Tcp(address) => {
            let address = tools::reachable(*address);
            Ok(Endpoint::Tcp { host: address.ip().to_string(), port: address.port() })
        }
        Listen::Unix(path) => Ok(Endpoint::Unix(path.clone())),
        Listen::Tls(_) => Err("this speaks no TLS; give --url, or ask `respmux healthcheck`".to_owned()),
    }
}

fn fail(error: &str) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "respmux: {error}");
    ExitCode::FAILURE
}

/// Loads the configuration, and checks what it says about commands.
fn load(flags: Flags) -> Result<Loaded, Problems> {
    let loaded = config::load(flags)?;
    auth::table(&loaded.config).map_err(|error| Problems::of(error.to_string()))?;
    Ok(loaded)
}

/// As [`load`], with the files and the server that a start needs.
fn load_all(flags: Flags) -> Result<Loaded, Problems> {
    let loaded = load(flags)?;
    match preflight::problems(&loaded.config) {
        none if none.is_empty() => Ok(loaded),
        problems => Err(Problems::all(problems)),
    }
}

fn check(flags: Flags, CheckOptions { json, connect, elsewhere }: CheckOptions) -> ExitCode {
    let (mut result, mut code) = (if elsewhere { load(flags) } else { load_all(flags) }, BAD_CONFIGURATION);
    if let Ok(loaded) = &mut result
        && !elsewhere
    {
        let (problems, warnings) = preflight::addresses(&loaded.config);
        loaded.warnings.extend(warnings);
        if !problems.is_empty() {
            result = Err(Problems::all(problems));
        }
    }
    if let Ok(loaded) = &mut result
        && connect
        && !loaded.config.embedded
    {
        match preflight::connect(&loaded.config) {
            Tried::Connected(server) if json => loaded.warnings.push(server),
            Tried::Connected(server) => {
                let _ = writeln!(io::stdout().lock(), "Connected {server}");
            }
            Tried::Refused(error) => result = Err(Problems::of(error)),
            Tried::Away(error) => (result, code) = (Err(Problems::of(error)), 1),
        }
    }
    match &result {
        Ok(loaded) if !json => say(&config::report_text(loaded)),
        Err(problems) if !json => refuse(problems, code),
        _ => {
            say(&config::report_json(result.as_ref()));
            if result.is_err() { code.into() } else { ExitCode::SUCCESS }
        }
    }
}

/// Asked for without an echo on a terminal; elsewhere everything on standard input but one line end. Neither history nor
/// process list sees it.
fn hash_password() -> ExitCode {
    match password::read() {
        Ok(password) => say(&format!("{}\n", auth::hash(&password))),
        Err(error) => fail(&format!("cannot read the password: {error}")),
    }
}

/// A reader that went away (`| head`) is no failure.
fn say(text: &str) -> ExitCode {
    write(text.as_bytes())
}

/// A reader that went away (`| head`) is no failure.
fn write(bytes: &[u8]) -> ExitCode {
    let _ = io::stdout().lock().write_all(bytes);
    ExitCode::SUCCESS
}

fn refuse(problems: &Problems, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "respmux: bad configuration\n{problems}");
    ExitCode::from(code)
}

/// How `check` is asked.
#[derive(Clone, Copy, Debug)]
struct CheckOptions {
    json: bool,
    connect: bool,
    /// The configuration is for another machine.
    elsewhere: bool,
}

#[derive(Debug)]
enum Task {
    Run(Flags),
    Check(Flags, CheckOptions),
    Print(Flags),
    Example,
    HashPassword,
    Schema,
    Reference,
    Completions(clap_complete::Shell),
    Manual,
    Ask(LiveQuery, Flags),
}

/// What a running proxy is asked from outside.
#[derive(Debug)]
enum LiveQuery {
    /// PING over RESP, to a URL or to the first address of the configuration.
    Ping { url: Option<String> },
    /// `/livez`, or `/readyz`.
    Health { ready: bool },
    /// Lines of numbers.
    Stat { interval: Duration, count: Option<u64> },
    /// Who does what.
    Top { url: Option<String>, interval: Duration, show: Show },
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Task, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = command();
    let matches = match command.try_get_matches_from_mut(&arguments) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument) => {
            let reason = arguments::unexpected(&command, &error, &arguments);
            return Err(command.error(ErrorKind::UnknownArgument, reason));
        }
        Err(error) => return Err(error),
    };
    let flags_of = |matches: &ArgMatches| {
        flags(matches).map_err(|reason| command.clone().error(ErrorKind::ValueValidation, reason))
    };
    match matches.subcommand() {
        None => flags_of(&matches).map(Task::Run),
        Some(("run", matches)) => flags_of(matches).map(Task::Run),
        Some(("check", matches)) => {
            let json = matches.get_flag("json");
            let (connect, elsewhere) = (matches.get_flag("connect"), matches.get_flag("elsewhere"));
            flags_of(matches).map(|flags| Task::Check(flags, CheckOptions { json, connect, elsewhere }))
        }
        Some(("hash-password", _)) => Ok(Task::HashPassword),
        Some(("config", matches)) => match matches.subcommand() {
            Some(("print", matches)) => flags_of(matches).map(Task::Print),
            Some(("schema", _)) => Ok(Task::Schema),
            Some(("reference", _)) => Ok(Task::Reference),
            _ => Ok(Task::Example),
        },
        Some(("completions", matches)) => {
            Ok(Task::Completions(*matches.get_one("shell").expect("clap requires the shell")))
        }
        Some(("man", _)) => Ok(Task::Manual),
        Some(("ping", matches)) => {
            let question = LiveQuery::Ping { url: matches.get_one::<String>("url").cloned() };
            flags_of(matches).map(|flags| Task::Ask(question, flags))
        }
        Some(("healthcheck", matches)) => {
            let question = LiveQuery::Health { ready: matches.get_flag("ready") };
            flags_of(matches).map(|flags| Task::Ask(question, flags))
        }
        Some(("stat", matches)) => {
            let question = LiveQuery::Stat { interval: interval(matches), count: matches.get_one("count").copied() };
            flags_of(matches).map(|flags| Task::Ask(question, flags))
        }
        Some(("top", matches)) => {
            let show = match () {
                () if matches.get_flag("json") => Show::Json,
                () if matches.get_flag("once") => Show::Once,
                () => Show::Live,
            };
            let url = matches.get_one::<String>("url").cloned();
            flags_of(matches).map(|flags| Task::Ask(LiveQuery::Top { url, interval: interval(matches), show }, flags))
        }
        Some((name, _)) => unreachable!("{name} is not among the subcommands"),
    }
}

fn interval(matches: &ArgMatches) -> Duration {
    let seconds = matches.get_one::<f64>("interval").copied().unwrap_or(1.0);
    Duration::from_secs_f64(seconds.clamp(0.1, 3600.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Raw;

    fn parse_line(line: &str) -> Result<Task, clap::Error> {
        parse(line.split(' ').map(OsString::from))
    }

    fn given(line: &str) -> Vec<(&'static str, Raw)> {
        match parse_line(line).unwrap() {
            Task::Run(flags) => flags.assignments.into_iter().map(|a| (a.key.path, a.raw)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn untyped(text: &str) -> Raw {
        Raw::Untyped(text.to_owned())
    }

    #[test]
    fn the_table_makes_a_consistent_command() {
        command().debug_assert();
    }

    #[test]
    fn run_is_the_default() {
        let expected = vec![("workers", untyped("2"))];
        assert_eq!(given("respmux --workers 2"), expected);
        assert_eq!(given("respmux run --workers 2"), expected);
        assert!(given("respmux").is_empty());
    }

    #[test]
    fn listen_repeats_and_embedded_needs_no_value() {
        let line = "respmux run --listen 127.0.0.1:1 --listen unix:/a,b --embedded --drain-delay 1s";
        let both = Raw::List(vec!["127.0.0.1:1".to_owned(), "unix:/a,b".to_owned()]);
        let expected = [("listen", both), ("embedded", untyped("true")), ("drain.delay", untyped("1s"))];
        assert_eq!(given(line), expected);
        assert_eq!(given("respmux --embedded=false"), [("embedded", untyped("false"))]);
    }

    #[test]
    fn set_takes_any_key() {
        let line = "respmux --set pool.wait_timeout=2s --set upstream.password=a=b";
        let expected = [("pool.wait_timeout", untyped("2s")), ("upstream.password", untyped("a=b"))];
        assert_eq!(given(line), expected);
    }

    #[test]
    fn usage_errors_name_the_flag_and_hide_secrets() {
        let cases = [
            ("respmux --set pool.wait_timout=2s", "did you mean \"pool.wait_timeout\"?"),
            ("respmux --set hunter2", "--set: expected KEY=VALUE"),
            ("respmux --set upstream.pasword=hunter2", "unknown key \"upstream.pasword\""),
            ("respmux --workers many", "--workers: workers: expected a whole number or \"auto\""),
            ("respmux --upstream rediss://:hunter2@h#", "--upstream: upstream.url: '#'"),
            ("respmux --max-upstream-connections 0", "must be 1 to 100000, got 0"),
        ];
        for (line, expected) in cases {
            let error = parse_line(line).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.exit_code(), 2);
            assert!(text.contains(expected), "{line}: {text}");
            assert!(!text.contains("hunter2"), "{line}: {text}");
        }
        for (line, expected) in [
            ("respmux --wrkers 2", "unknown flag --wrkers; did you mean --workers?"),
            ("respmux --upsteam redis://:hunter2@h", "unknown flag --upsteam; did you mean --upstream?"),
            ("respmux run --upsteam=redis://:hunter2@h", "unknown flag --upsteam; did you mean --upstream?"),
            ("respmux top --ur redis://:hunter2@h", "unknown flag --ur; did you mean --url?"),
            ("respmux --hunter2@x", "unknown flag"),
            ("respmux -phunter2", "unknown flag -p"),
            ("respmux --zzzzzz=hunter2", "unknown flag --zzzzzz\n"),
            ("respmux chek", "unknown subcommand; did you mean check?"),
            ("respmux hunter2", "unknown subcommand"),
            ("respmux redis://:hunter2@h", "a URL must follow --upstream"),
            ("respmux run redis://:hunter2@h", "a URL must follow --upstream"),
            ("respmux check x hunter2", "unexpected argument"),
        ] {
            let error = parse_line(line).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.exit_code(), 2);
            assert!(text.contains(expected) && !text.contains("hunter2"), "{line}: {text}");
        }
        assert_eq!(parse_line("respmux --version").unwrap_err().exit_code(), 0);
    }
}
