//! The command line: what is asked for, and the answers that need no running proxy.
//!
//! The flags are built from the table of keys in `config`, so that help, names and meaning are the
//! table's. Values are checked here rather than by clap, whose errors quote them: a URL may hold a
//! password.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::auth;
use crate::config::{
    self, Assignment, Config, Endpoint, Flags, KEYS, Key, Kind, Listen, Loaded, Origin, Problems, Raw,
};
use crate::tools::{self, Show, Target};

/// EX_CONFIG of sysexits: a supervisor should not start the program again.
const BAD_CONFIGURATION: u8 = 78;

/// How long a question to a running proxy may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a command line comes to.
#[derive(Debug)]
pub enum Begin {
    /// Run with this; say the warnings when the log is set up.
    Run {
        /// Checked.
        config: Box<Config>,
        /// One line each.
        warnings: Vec<String>,
        /// To read it again.
        source: Box<config::Source>,
    },
    /// Everything was done already.
    Exit(ExitCode),
}

/// Reads the command line and the configuration, and answers what needs no running proxy. Exit
/// codes: 0 done, 1 `check` found problems, 2 usage, 78 bad configuration.
pub fn begin(arguments: impl IntoIterator<Item = OsString>) -> Begin {
    let task = match parse(arguments) {
        Ok(task) => task,
        Err(error) => {
            // Also --help and --version, with exit code 0. A closed stdout is no reason to panic.
            let _ = error.print();
            return Begin::Exit(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    match task {
        Task::Run(flags) => match load(flags.clone()) {
            Ok(Loaded { config, warnings, settings }) => Begin::Run {
                config: Box::new(config),
                warnings,
                source: Box::new(config::Source::new(flags, settings)),
            },
            Err(problems) => Begin::Exit(refuse(&problems, BAD_CONFIGURATION)),
        },
        Task::Check { flags, json } => Begin::Exit(check(flags, json)),
        Task::Print(flags) => Begin::Exit(match load(flags) {
            Ok(loaded) => say(&config::merged(&loaded)),
            Err(problems) => refuse(&problems, BAD_CONFIGURATION),
        }),
        Task::Example => Begin::Exit(say(&config::example())),
        Task::HashPassword => Begin::Exit(hash_password()),
        Task::Schema => Begin::Exit(say(&tools::schema())),
        Task::Reference => Begin::Exit(say(&tools::reference())),
        Task::Completions(shell) => Begin::Exit(write(&tools::completions(command(), shell))),
        Task::Manual => Begin::Exit(match tools::manual(command()) {
            Ok(page) => write(&page),
            Err(error) => fail(&error.to_string()),
        }),
        Task::Ask(question, flags) => match load(flags) {
            Ok(loaded) => Begin::Exit(ask(&question, &loaded.config)),
            Err(problems) => Begin::Exit(refuse(&problems, BAD_CONFIGURATION)),
        },
    }
}

/// Asks a running proxy, found by the configuration it has. Exit code 1 when it is not well.
fn ask(question: &Question, config: &Config) -> ExitCode {
    let admin = config.admin.ok_or_else(|| "the admin endpoint is off".to_owned());
    let answer = match question {
        Question::Ping { url } => ping(url.as_deref(), config),
        Question::Health { ready } => {
            let page = if *ready { "/readyz" } else { "/livez" };
            admin.and_then(|admin| tools::health(admin, page, PATIENCE)).map(|body| format!("{body}\n"))
        }
        Question::Stat { interval, count } => admin
            .and_then(|admin| tools::stat(admin, *interval, *count, &mut io::stdout().lock()))
            .map(|()| String::new()),
        Question::Top { url, interval, show } => target(url.as_deref(), config)
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
fn target(url: Option<&str>, config: &Config) -> Result<Target, String> {
    match url {
        Some(url) => {
            config::parse_url(url).map(|(endpoint, username, password)| Target { endpoint, username, password })
        }
        None => own_endpoint(&config.listen[0]).map(|endpoint| Target { endpoint, username: None, password: None }),
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

fn check(flags: Flags, json: bool) -> ExitCode {
    let result = load(flags);
    match &result {
        Ok(loaded) if !json => say(&config::report_text(loaded)),
        Err(problems) if !json => refuse(problems, 1),
        _ => {
            say(&config::report_json(result.as_ref()));
            ExitCode::from(u8::from(result.is_err()))
        }
    }
}

/// Everything on standard input but one line end, so that neither history nor process list sees it.
fn hash_password() -> ExitCode {
    let mut password = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut password) {
        let _ = writeln!(io::stderr().lock(), "respmux: cannot read the password: {error}");
        return ExitCode::FAILURE;
    }
    let line = password.strip_suffix(b"\n").unwrap_or(&password);
    say(&format!("{}\n", auth::hash(line.strip_suffix(b"\r").unwrap_or(line))))
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

#[derive(Debug)]
enum Task {
    Run(Flags),
    Check { flags: Flags, json: bool },
    Print(Flags),
    Example,
    HashPassword,
    Schema,
    Reference,
    Completions(clap_complete::Shell),
    Manual,
    Ask(Question, Flags),
}

/// What a running proxy is asked from outside.
#[derive(Debug)]
enum Question {
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
        Err(error) if is_stray_url(&error, &arguments) => {
            let reason = "a URL stands after --upstream";
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
            flags_of(matches).map(|flags| Task::Check { flags, json })
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
            let question = Question::Ping { url: matches.get_one::<String>("url").cloned() };
            flags_of(matches).map(|flags| Task::Ask(question, flags))
        }
        Some(("healthcheck", matches)) => {
            let question = Question::Health { ready: matches.get_flag("ready") };
            flags_of(matches).map(|flags| Task::Ask(question, flags))
        }
        Some(("stat", matches)) => {
            let question = Question::Stat { interval: interval(matches), count: matches.get_one("count").copied() };
            flags_of(matches).map(|flags| Task::Ask(question, flags))
        }
        Some(("top", matches)) => {
            let show = match () {
                () if matches.get_flag("json") => Show::Json,
                () if matches.get_flag("once") => Show::Once,
                () => Show::Live,
            };
            let url = matches.get_one::<String>("url").cloned();
            flags_of(matches).map(|flags| Task::Ask(Question::Top { url, interval: interval(matches), show }, flags))
        }
        Some((name, _)) => unreachable!("{name} is not among the subcommands"),
    }
}

fn interval(matches: &ArgMatches) -> Duration {
    let seconds = matches.get_one::<f64>("interval").copied().unwrap_or(1.0);
    Duration::from_secs_f64(seconds.clamp(0.1, 3600.0))
}

/// Whether clap is about to quote what may be a URL with a password in it.
fn is_stray_url(error: &clap::Error, arguments: &[OsString]) -> bool {
    let quotes = matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument);
    quotes && arguments.iter().any(|argument| argument.to_string_lossy().contains("://"))
}

fn command() -> Command {
    let run = "Accept clients and carry their commands to the upstream (the default)";
    let check = "Check the configuration, show how upstream connections are divided, connect nowhere";
    let print = "Print the merged configuration, with the origin of each value";
    let hash = "Read a password from standard input and print what password_sha256 of auth.users takes";
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in JSON");
    let config = Command::new("config")
        .about("Show the configuration")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("print").about(print).args(arguments()))
        .subcommand(Command::new("example").about("Print every key with its meaning and default, as TOML"))
        .subcommand(Command::new("schema").about("Print the JSON schema of the file, for editors"))
        .subcommand(Command::new("reference").about("Print every key as Markdown tables"));
    Command::new("respmux")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Carries many Redis clients over few upstream connections")
        .after_help(
            "Flags go over RESPMUX_* variables, these over the file. `respmux config example` lists \
             all keys.",
        )
        .args_conflicts_with_subcommands(true)
        .args(arguments())
        .subcommand(Command::new("run").about(run).args(arguments()))
        .subcommand(Command::new("check").about(check).args(arguments()).arg(json))
        .subcommand(config)
        .subcommand(Command::new("hash-password").about(hash))
        .subcommands(questions())
        .subcommand(Command::new("completions").about("Print the completion script of a shell").arg(
            Arg::new("shell").required(true).value_name("SHELL").value_parser(value_parser!(clap_complete::Shell)),
        ))
        .subcommand(Command::new("man").about("Print the manual page"))
}

/// What asks a running proxy. Each takes the same flags, variables and file as the proxy and finds it by them.
fn questions() -> [Command; 4] {
    let url =
        Arg::new("url").long("url").value_name("URL").help("redis://… to ask instead of the first listen address");
    let ready = Arg::new("ready").long("ready").action(ArgAction::SetTrue).help("Ask /readyz instead of /livez");
    let interval = Arg::new("interval").short('i').long("interval").value_name("SECONDS");
    let once = Arg::new("once").long("once").action(ArgAction::SetTrue).help("Print once and end");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print once, as JSON, and end");
    let count = Arg::new("count").short('n').long("count").value_name("LINES").help("Lines after which to end");
    [
        Command::new("ping")
            .about("Send one PING as a client; exit code 1 without PONG")
            .args(arguments())
            .arg(url.clone()),
        Command::new("healthcheck")
            .about("Ask the admin endpoint whether the proxy is well; exit code 1 if not")
            .args(arguments())
            .arg(ready),
        Command::new("stat")
            .about("A line of numbers each second: clients, upstream connections, commands, latency")
            .args(arguments())
            .arg(interval.clone().help("Seconds between lines [default: 1]").value_parser(value_parser!(f64)))
            .arg(count.value_parser(value_parser!(u64))),
        Command::new("top")
            .about("Watch clients, pools, lanes and slow requests; asks PROXY as a client does")
            .args(arguments())
            .arg(url)
            .arg(interval.help("Seconds between looks [default: 1]").value_parser(value_parser!(f64)))
            .arg(once)
            .arg(json),
    ]
}

/// `--config`, a flag for each key that has one, and `--set` for all.
fn arguments() -> Vec<Arg> {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("TOML file to read [variable: RESPMUX_CONFIG]");
    let set = Arg::new("set")
        .long("set")
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .help("Set any key, such as pool.wait_timeout=2s; may be repeated");
    let mut arguments = vec![file];
    arguments.extend(KEYS.iter().filter_map(argument));
    arguments.push(set);
    arguments
}

fn argument(key: &'static Key) -> Option<Arg> {
    let (name, value) = key.flag?;
    let variable = key.short_env.map_or_else(|| key.env(), str::to_owned);
    let default = key.default_text();
    let help = format!("{} [default: {default}] [variable: {variable}]", key.doc);
    let argument = Arg::new(key.path).long(name).value_name(value).help(help);
    Some(match key.kind {
        Kind::Listen => argument.action(ArgAction::Append),
        // `--embedded` alone means yes; `--embedded=false` takes back what a variable says.
        Kind::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => argument,
    })
}

fn flags(matches: &ArgMatches) -> Result<Flags, String> {
    let mut flags = Flags { file: matches.get_one::<PathBuf>("config").cloned(), ..Flags::default() };
    for key in KEYS {
        let Some((name, _)) = key.flag else { continue };
        let Some(values) = matches.get_many::<String>(key.path) else {
            continue;
        };
        let values: Vec<String> = values.cloned().collect();
        let raw = match <[String; 1]>::try_from(values) {
            Ok([one]) => Raw::Untyped(one),
            Err(several) => Raw::List(several),
        };
        flags.assignments.push(assignment(key, raw, format!("--{name}"))?);
    }
    for text in matches.get_many::<String>("set").into_iter().flatten() {
        let Some((path, value)) = text.split_once('=') else {
            return Err("--set: expected KEY=VALUE".to_owned());
        };
        let path = path.trim();
        let Some(key) = config::find_key(path) else {
            return Err(format!("--set: {}", config::unknown_key(path)));
        };
        let raw = Raw::Untyped(value.to_owned());
        flags.assignments.push(assignment(key, raw, format!("--set {path}"))?);
    }
    Ok(flags)
}

fn assignment(key: &'static Key, raw: Raw, name: String) -> Result<Assignment, String> {
    match key.kind.parse(&raw) {
        Ok(_) => Ok(Assignment { key, raw, origin: Origin::Flag(name) }),
        Err(reason) => Err(format!("{name}: {}", config::name_key(key, &reason))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(parse_line("respmux --wrkers 2").unwrap_err().exit_code(), 2);
        assert_eq!(parse_line("respmux --version").unwrap_err().exit_code(), 0);
    }
}
