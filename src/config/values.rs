//! Settings as the types the program uses. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{Listen, UpstreamUrl};
use super::settings::{Entry, Settings};
use super::value::Setting;
use super::{Blocking, Client, Drain, Integrity, Lane, Log, LogFormat, Pool, Pubsub};

/// Typed access to settings. The kind in the table and the type asked for here belong together; a
/// mismatch is caught by the first test that loads anything.
pub(super) struct Values<'a>(pub(super) &'a Settings);

impl Values<'_> {
    pub(super) fn entry(&self, path: &str) -> &Entry {
        self.0.entry(path)
    }

    pub(super) fn count(&self, path: &str) -> usize {
        match &self.entry(path).setting {
            Setting::Count(number) | Setting::Size(number) => *number,
            other => unreachable!("{path} is no number but {other:?}"),
        }
    }

    /// Nothing when a word stands for a number, or nothing does.
    pub(super) fn maybe_count(&self, path: &str) -> Option<usize> {
        match &self.entry(path).setting {
            Setting::Word(_) | Setting::Unset => None,
            _ => Some(self.count(path)),
        }
    }

    pub(super) fn time(&self, path: &str) -> Duration {
        match &self.entry(path).setting {
            Setting::Time(time) => *time,
            other => unreachable!("{path} is no duration but {other:?}"),
        }
    }

    pub(super) fn switch(&self, path: &str) -> bool {
        self.entry(path).setting == Setting::Switch(true)
    }

    pub(super) fn is_word(&self, path: &str, word: &'static str) -> bool {
        self.entry(path).setting == Setting::Word(word)
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        match &self.entry(path).setting {
            Setting::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        match &self.entry(path).setting {
            Setting::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    pub(super) fn url(&self) -> &UpstreamUrl {
        match &self.entry("upstream.url").setting {
            Setting::Url(url) => url,
            other => unreachable!("upstream.url is no URL but {other:?}"),
        }
    }

    pub(super) fn listen(&self) -> Vec<Listen> {
        match &self.entry("listen").setting {
            Setting::Listen(listen) => listen.clone(),
            other => unreachable!("listen is no list but {other:?}"),
        }
    }

    pub(super) fn integrity(&self) -> Integrity {
        if self.is_word("integrity", "strict") {
            Integrity::Strict
        } else if self.is_word("integrity", "loose") {
            Integrity::Loose
        } else {
            Integrity::Normal
        }
    }

    pub(super) fn lane(&self) -> Lane {
        Lane {
            max_command_bytes: self.count("lane.max_command_bytes"),
            max_inflight_commands: self.count("lane.max_inflight_commands"),
            max_inflight_bytes: self.count("lane.max_inflight_bytes"),
            canary_commands: self.count("lane.canary_commands"),
            canary_interval: self.time("lane.canary_interval"),
            busy_threshold: self.time("lane.busy_threshold"),
        }
    }

    pub(super) fn pool(&self) -> Pool {
        Pool {
            wait_timeout: self.time("pool.wait_timeout"),
            max_waiters: self.count("pool.max_waiters"),
            idle_transaction_timeout: self.time("pool.idle_transaction_timeout"),
        }
    }

    pub(super) fn blocking(&self) -> Blocking {
        Blocking {
            max_connections: self.maybe_count("blocking.max_connections"),
            fold_width: self.count("blocking.fold_width"),
            poll_min: self.time("blocking.poll_min"),
            poll_max: self.time("blocking.poll_max"),
            give_back: self.switch("blocking.give_back"),
        }
    }

    pub(super) fn pubsub(&self) -> Pubsub {
        Pubsub {
            shared: self.is_word("pubsub.mode", "shared"),
            exact_resp3: self.is_word("pubsub.resp3", "exact"),
            output_soft: self.count("pubsub.output_soft"),
            output_soft_time: self.time("pubsub.output_soft_time"),
        }
    }

    pub(super) fn client(&self) -> Client {
        Client {
            max_connections: self.count("client.max_connections"),
            accept_rate: self.count("client.accept_rate"),
            accept_burst: self.count("client.accept_burst"),
            backlog: self.count("client.backlog"),
            inflight_commands: self.count("client.inflight_commands"),
            inflight_bytes: self.count("client.inflight_bytes"),
            request_timeout: self.time("client.request_timeout"),
            output_soft: self.count("client.output_soft"),
            output_limit: self.count("client.output_limit"),
            output_stall_time: self.time("client.output_stall_time"),
            pubsub_output_limit: self.count("client.pubsub_output_limit"),
            proxy_commands: self.switch("client.proxy_commands"),
            query_buffer_limit: self.count("client.query_buffer_limit"),
            max_per_source: self.maybe_count("client.max_per_source"),
            partial_timeout: self.time("client.partial_timeout"),
            max_age: self.time("client.max_age"),
            tcp_keepalive: self.time("client.tcp_keepalive"),
            verify_privileged: self.switch("client.verify_privileged"),
        }
    }

    pub(super) fn log(&self) -> Log {
        let format = match () {
            () if self.is_word("log.format", "text") => LogFormat::Text,
            () if self.is_word("log.format", "json") => LogFormat::Json,
            () => LogFormat::Auto,
        };
        Log { level: self.text("log.level").expect("log.level has a default"), format }
    }

    pub(super) fn drain(&self) -> Drain {
        Drain {
            delay: self.time("drain.delay"),
            timeout: self.time("drain.timeout"),
            spread: self.time("drain.spread"),
            endpoint: self.text("drain.endpoint"),
        }
    }
}
