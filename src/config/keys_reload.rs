//! Rows about changes while the process runs: the configuration read again, and the pause.

use super::key::{Key, key, time};

pub(super) const POLL: Key = key(
    "reload.poll",
    "10s",
    time(0),
    "How often the configuration file is looked at; when its content has changed it is read as on SIGHUP or PROXY RELOAD. \
     By content, so the swap of a Kubernetes ConfigMap is seen. A file that is wrong changes nothing. 0s is never.",
);

pub(super) const PAUSE_MAX: Key = key(
    "pause.max",
    "60s",
    time(1),
    "Longest PROXY PAUSE: then clients are served again without a PROXY RESUME, and the log says so.",
);
