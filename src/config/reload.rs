//! The configuration read again: what has changed, and what of it can count while the process runs.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::Config;
use super::keys::KEYS;
use super::load::{self, Flags, Loaded};
use super::machine::Host;
use super::settings::{Problems, Settings};

/// Where the configuration comes from, and what was read there.
#[derive(Clone, Debug)]
pub struct Source {
    flags: Flags,
    /// As of the start: what holds for keys that cannot change.
    started: Settings,
    /// As of the last time that all was right.
    current: Settings,
}

/// The configuration as it is to be from here on.
#[derive(Debug)]
pub(crate) struct Reread {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<String>,
    /// Keys whose new values count with `config`.
    pub(crate) changed: Vec<&'static str>,
    /// Keys whose values wait for a restart; in `config` they are as at the start.
    pub(crate) pending: Vec<&'static str>,
    settings: Settings,
}

impl Source {
    pub(crate) fn new(flags: Flags, settings: Settings) -> Self {
        Self { flags, started: settings.clone(), current: settings }
    }

    /// The file, if there is one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        load::file_path(&self.flags).map(|(path, _)| path)
    }

    /// Names the content of the file as it is now; nothing without a file that can be read.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        fs::read(self.file()?).ok().map(|content| Sha256::digest(content).into())
    }

    /// Reads everything again. What was read counts as current only after [`Source::accept`].
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn reread(&self, running: &Config) -> Result<Reread, Problems> {
        let Loaded { settings, warnings, .. } = load::load(self.flags.clone())?;
        let differing = |before: &Settings, live: bool| -> Vec<&'static str> {
            let differs = |path| settings.entry(path).setting != before.entry(path).setting;
            KEYS.iter().filter(|key| key.live == live && differs(key.path)).map(|key| key.path).collect()
        };
        let (changed, pending) = (differing(&self.current, true), differing(&self.started, false));
        // Each is right as a whole; the mixture of both may not be.
        let source = |live| if live { &settings } else { &self.started };
        let entries = KEYS.iter().map(|key| (key.path, source(key.live).entry(key.path).clone())).collect();
        let mixed = Config::build(&Settings { entries, ..Settings::default() }, Host::detect());
        let (mut config, _) = mixed.map_err(|problems| needs_restart(&pending, problems))?;
        (config.workers, config.instance) = (running.workers, running.instance);
        if config.embedded {
            config.upstream.endpoint = running.upstream.endpoint.clone();
        }
        config.shown.keep(&running.shown);
        Ok(Reread { config, warnings, changed, pending, settings })
    }

    /// The configuration that was read is in force.
    pub(crate) fn accept(&mut self, reread: &Reread) {
        self.current = reread.settings.clone();
    }
}

fn needs_restart(pending: &[&str], problems: Problems) -> Problems {
    let reason = format!("a restart is needed for {}: without it, what is new does not fit", pending.join(", "));
    Problems([vec![reason], problems.0].concat())
}

#[cfg(test)]
mod tests {
    use super::super::keys::find;
    use super::super::tests::tested;
    use super::*;

    struct File(PathBuf);

    impl File {
        fn new(text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("respmux-reload-{:016x}.toml", fastrand::u64(..)));
            let file = Self(path);
            file.write(text);
            file
        }

        fn write(&self, text: &str) {
            fs::write(&self.0, text).unwrap();
        }

        fn source(&self) -> (Source, Config) {
            let flags = Flags { file: Some(self.0.clone()), ..Flags::default() };
            let loaded = load::load(flags.clone()).unwrap();
            (Source::new(flags, loaded.settings), loaded.config)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_can_change_does_and_what_cannot_is_named_until_it_is_taken_back() {
        let file = File::new("instance = 7\nworkers = 1\n");
        let (mut source, running) = file.source();
        file.write("instance = 8\nworkers = 2\n[client]\nmax_connections = 77\n[log]\nlevel = 'debug'\n");
        let reread = source.reread(&running).unwrap();
        assert_eq!(reread.changed, ["client.max_connections", "log.level"]);
        assert_eq!(reread.pending, ["workers", "instance"]);
        assert_eq!((reread.config.workers, reread.config.instance), (1, 7));
        assert_eq!((reread.config.client.max_connections, &*reread.config.log.level), (77, "debug"));
        source.accept(&reread);
        let again = source.reread(&reread.config).unwrap();
        assert_eq!((again.changed.len(), again.pending), (0, reread.pending));
        file.write("instance = 7\nworkers = 1\n");
        let back = source.reread(&again.config).unwrap();
        assert_eq!(back.changed, ["client.max_connections", "log.level"]);
        assert!(back.pending.is_empty());
    }

    #[test]
    fn a_bad_file_says_where_and_nothing_is_taken_over() {
        let file = File::new("");
        let (source, running) = file.source();
        file.write("[client]\nmax_connections = 77\nmax_conections = 3\n");
        let problems = source.reread(&running).unwrap_err().to_string();
        assert!(problems.contains(&format!("{}:3:1", file.0.display())), "{problems}");
        assert!(problems.contains("did you mean"), "{problems}");
    }

    #[test]
    fn a_random_instance_stays() {
        let file = File::new("");
        let (source, running) = file.source();
        for _ in 0..5 {
            let reread = source.reread(&running).unwrap();
            assert_eq!(reread.config, running);
            assert!(reread.changed.is_empty() && reread.pending.is_empty());
        }
    }

    #[test]
    fn new_values_that_fit_only_after_a_restart_are_refused_with_its_reason() {
        let file = File::new("listen = '127.0.0.1:6380'\nallow_remote_passwordless = true\n");
        let (source, running) = file.source();
        // The new file is right: nobody remote can come in. The running process has the same address.
        file.write("listen = '127.0.0.1:6381'\n");
        let reread = source.reread(&running).unwrap();
        assert_eq!((reread.changed, reread.pending), (vec!["allow_remote_passwordless"], vec!["listen"]));
        let open = File::new("listen = '0.0.0.0:6380'\nallow_remote_passwordless = true\n");
        let (source, running) = open.source();
        open.write("listen = '127.0.0.1:6381'\n");
        let problems = source.reread(&running).unwrap_err().to_string();
        assert!(problems.starts_with("a restart is needed for listen"), "{problems}");
    }

    #[test]
    fn the_sum_of_the_content_is_what_counts() {
        let file = File::new("instance = 7\n");
        let (source, _) = file.source();
        let before = source.digest().unwrap();
        file.write("instance = 7\n");
        assert_eq!(source.digest(), Some(before));
        file.write("instance = 7\n\n");
        assert_ne!(source.digest(), Some(before));
    }

    #[test]
    fn keys_that_were_used_up_at_the_start_need_a_restart() {
        let live = |path| find(path).unwrap().live;
        for path in ["listen", "workers", "admin", "upstream.max_connections", "tls.cert_file", "auth.mode"] {
            assert!(!live(path), "{path}");
        }
        for path in ["upstream.url", "upstream.password_file", "client.max_connections", "log.level", "commands.deny"] {
            assert!(live(path), "{path}");
        }
        assert!(tested("").reload_poll.as_secs() == 10);
    }
}
