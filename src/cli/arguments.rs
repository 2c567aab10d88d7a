//! The subcommands and flags, and what they give.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{self, Assignment, Flags, KEYS, Key, Kind, Origin, Raw};

pub(super) fn command() -> Command {
    let run = "Accept clients and carry their commands to the upstream (the default)";
    let check =
        "Check all that run needs, and show how upstream connections are divided; exit code 78 if run would refuse it";
    let connect = Arg::new("connect").long("connect").action(ArgAction::SetTrue);
    let connect = connect.help("Also connect to the upstream: TLS, login, database; exit code 1 if it is not there");
    let print = "Print the merged configuration, with the origin of each value";
    let hash = "Read a password from standard input and print what password_sha256 of auth.users takes";
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in JSON");
    let elsewhere = Arg::new("elsewhere").long("elsewhere").action(ArgAction::SetTrue).conflicts_with("connect");
    let elsewhere = elsewhere.help(
        "The configuration is for another machine: skip the checks of addresses, certificates and limits on this one",
    );
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
        .about("A proxy that carries many Redis clients over a few upstream connections")
        .after_help(
            "Flags override RESPMUX_* variables, which override the configuration file. `respmux config \
             example` lists all keys.",
        )
        .args_conflicts_with_subcommands(true)
        .args(arguments())
        .subcommand(Command::new("run").about(run).args(arguments()))
        .subcommand(Command::new("check").about(check).args(arguments()).args([json, connect, elsewhere]))
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
    let url = Arg::new("url")
        .long("url")
        .value_name("URL")
        .help("Address to ask, redis://…, instead of the first listen address");
    let ready = Arg::new("ready").long("ready").action(ArgAction::SetTrue).help("Ask /readyz instead of /livez");
    let interval = Arg::new("interval").short('i').long("interval").value_name("SECONDS");
    let once = Arg::new("once").long("once").action(ArgAction::SetTrue).help("Print once, then exit");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print once, as JSON, then exit");
    let count = Arg::new("count").short('n').long("count").value_name("LINES").help("Exit after this many lines");
    [
        Command::new("ping")
            .about("Send one PING as a client; exit with 1 if there is no PONG")
            .args(arguments())
            .arg(url.clone()),
        Command::new("healthcheck")
            .about("Ask the admin endpoint whether the proxy is healthy; exit with 1 if it is not")
            .args(arguments())
            .arg(ready),
        Command::new("stat")
            .about("Print a line of figures each second: clients, upstream connections, commands, latency")
            .args(arguments())
            .arg(interval.clone().help("Seconds between lines [default: 1]").value_parser(value_parser!(f64)))
            .arg(count.value_parser(value_parser!(u64))),
        Command::new("top")
            .about("Show clients, pools, shared connections and slow requests, live; asks PROXY as a client does")
            .args(arguments())
            .arg(url)
            .arg(interval.help("Seconds between updates [default: 1]").value_parser(value_parser!(f64)))
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
    let default = key.default_text().unwrap_or("not set");
    let help = format!("{} [default: {default}] [variable: {variable}]", key.doc);
    let argument = Arg::new(key.path).long(name).value_name(value).help(help);
    Some(match key.kind {
        Kind::Listen => argument.action(ArgAction::Append),
        // `--embedded` alone means yes; `--embedded=false` takes back what a variable says.
        Kind::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => argument,
    })
}

pub(super) fn flags(matches: &ArgMatches) -> Result<Flags, String> {
    let mut flags = Flags { file: matches.get_one::<PathBuf>("config").cloned(), ..Flags::default() };
    for key in KEYS.iter() {
        let Some((name, _)) = key.flag else { continue };
        let Some(values) = matches.get_many::<String>(key.path) else {
            continue;
        };
        let values: Vec<String> = values.cloned().collect();
        let raw = match <[String; 1]>::try_from(values) {
            Ok([one]) => Raw::Untyped(one),
            Err(several) => Raw::List(several),
        };
        flags.assignments.push(assignment(key, raw, key.path, format!("--{name}"))?);
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
        flags.assignments.push(assignment(key, raw, path, format!("--set {path}"))?);
    }
    Ok(flags)
}

fn assignment(key: &'static Key, raw: Raw, path: &str, name: String) -> Result<Assignment, String> {
    match key.kind.parse(&raw) {
        Ok(_) => Ok(Assignment { key, raw, origin: Origin::Flag(name), is_old: key.is_old(path) }),
        Err(reason) => Err(format!("{name}: {}", config::name_key(key, &reason))),
    }
}

/// What stands on the command line and does not belong there: named as far as it is no value, which may be a password.
pub(super) fn unexpected(command: &Command, error: &clap::Error, given: &[OsString]) -> String {
    let word = match error.get(ContextKind::InvalidArg).or_else(|| error.get(ContextKind::InvalidSubcommand)) {
        Some(ContextValue::String(word)) => word.as_str(),
        _ => "",
    };
    let is_url = |word: &str| word.contains("://");
    if word.starts_with('-') {
        return unknown_flag(command, word);
    }
    if is_url(word) || (word.is_empty() && given.iter().any(|one| is_url(&one.to_string_lossy()))) {
        return "a URL must follow --upstream".to_owned();
    }
    if error.kind() == ErrorKind::InvalidSubcommand || given.get(1).is_some_and(|first| first.to_string_lossy() == word)
    {
        let names = command.get_subcommands().map(Command::get_name);
        return format!("unknown subcommand{}", meant("", config::nearest(word, names)));
    }
    "unexpected argument: a value must follow a flag".to_owned()
}

fn unknown_flag(command: &Command, word: &str) -> String {
    let Some(name) = word.strip_prefix("--") else {
        // A value may be joined to a short one.
        return format!("unknown flag {}", word.chars().take(2).collect::<String>());
    };
    let name = name.split('=').next().unwrap_or_default();
    let every = command.get_subcommands().chain([command]).flat_map(Command::get_arguments).filter_map(Arg::get_long);
    let tip = meant("--", config::nearest(name, every));
    match name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
        true => format!("unknown flag --{name}{tip}"),
        false => format!("unknown flag{tip}"),
    }
}

fn meant(dashes: &str, name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!("; did you mean {dashes}{name}?"))
}
