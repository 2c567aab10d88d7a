//! Rows of [`KEYS`](super::keys::KEYS) about TLS on both sides, sockets, and how fast clients are let in.

use super::key::{Key, count, key, optional, time};

use super::value::Kind;

pub(super) const UPSTREAM_CA_FILE: Key = optional(
    "upstream.tls_ca_file",
    "\"/etc/respmux/upstream-ca.pem\"",
    Kind::Path,
    "For a rediss:// URL: the authorities that may sign the upstream's certificate, PEM. Without it those of the \
         system. Like all certificates it is read again when it changes.",
);

pub(super) const UPSTREAM_SERVER_NAME: Key = optional(
    "upstream.tls_server_name",
    "\"redis.example\"",
    Kind::Text,
    "For a rediss:// URL: the name that the upstream's certificate must have, in place of the URL's host.",
);

pub(super) const UPSTREAM_CERT_FILE: Key = optional(
    "upstream.tls_cert_file",
    "\"/etc/respmux/upstream-client.pem\"",
    Kind::Path,
    "For a rediss:// URL: our certificate towards the upstream, PEM. Needs upstream.tls_key_file.",
);

pub(super) const UPSTREAM_KEY_FILE: Key = optional(
    "upstream.tls_key_file",
    "\"/etc/respmux/upstream-client.key\"",
    Kind::Path,
    "The key of upstream.tls_cert_file, PEM.",
);

pub(super) const UPSTREAM_INSECURE_SKIP_VERIFY: Key = key(
    "upstream.tls_insecure_skip_verify",
    "false",
    Kind::Switch,
    "For a rediss:// URL: accept any certificate. Whoever stands between can then read and change everything.",
);

pub(super) const CERT_FILE: Key = optional(
    "tls.cert_file",
    "\"/etc/respmux/tls.crt\"",
    Kind::Path,
    "Certificate for addresses tls:IP:PORT in `listen`, PEM, with those between it and the authority behind it. \
         Read again when it changes; a bad one is reported and the old one stays in use.",
)
.restart();

pub(super) const KEY_FILE: Key =
    optional("tls.key_file", "\"/etc/respmux/tls.key\"", Kind::Path, "The key of tls.cert_file, PEM.").restart();

pub(super) const CLIENT_CA_FILE: Key = optional(
    "tls.client_ca_file",
    "\"/etc/respmux/clients-ca.pem\"",
    Kind::Path,
    "The authorities that sign clients' certificates, PEM. Needed unless tls.client_auth is \"no\".",
)
.restart();

pub(super) const CLIENT_AUTH: Key = key(
    "tls.client_auth",
    "no",
    Kind::Word(&["no", "optional", "required"]),
    "Whether clients are asked for a certificate. \"optional\": one that is shown must be good.",
)
.restart();

pub(super) const MIN_VERSION: Key =
    key("tls.min_version", "1.2", Kind::Word(&["1.2", "1.3"]), "Oldest version of TLS, for clients and the upstream.")
        .restart();

pub(super) const HANDSHAKE_TIMEOUT: Key = key(
    "tls.handshake_timeout",
    "5s",
    time(1),
    "From accept to the end of a client's handshake, its wait for a turn included; then it is closed.",
)
.restart();

pub(super) const MAX_HANDSHAKES: Key = key(
    "tls.max_handshakes",
    "512",
    count(1, 1_000_000),
    "Clients of one worker in their handshake or in line for it; further ones are closed. At most two a worker \
         are computed between two looks at everybody else.",
)
.restart();

pub(super) const RELOAD_INTERVAL: Key =
    key("tls.reload_interval", "5s", time(100), "How often certificate files are looked at for a change.").restart();

pub(super) const UNIX_MODE: Key =
    key("unix.mode", "0660", Kind::Mode, "Permissions of the socket files of unix:PATH in `listen`, octal.").restart();

pub(super) const UNIX_ALLOW_UIDS: Key = optional(
    "unix.allow_uids",
    "\"0,1000\"",
    Kind::Uids,
    "Numbers of the users whose processes may connect to unix sockets; unset is everybody whom the permissions \
         of the file let in.",
);

pub(super) const ACCEPT_RATE: Key = key(
    "client.accept_rate",
    "0",
    count(0, 1_000_000),
    "Clients that may be accepted a second; further ones wait in the backlog, and a line in the log says so. 0 is no \
         limit: applications that connect for every request (php-fpm without persistent connections) are many a second.",
);

pub(super) const ACCEPT_BURST: Key = key(
    "client.accept_burst",
    "2000",
    count(1, 1_000_000),
    "Clients that may be accepted at once after a quiet time, before client.accept_rate holds.",
);

pub(super) const BACKLOG: Key = key(
    "client.backlog",
    "1024",
    count(1, 65_535),
    "Clients that may wait to be accepted, for each address; the kernel caps it at net.core.somaxconn.",
)
.restart();

pub(super) const HANDOVER: Key = optional(
    "handover",
    "\"/run/respmux/handover.sock\"",
    Kind::Path,
    "Unix socket over which a respmux that starts takes the listening sockets from the one that runs, so that no \
         connect is refused: the running one then lets its clients finish and ends. Only the same user, or root, may. \
         Until it has ended both have upstream connections: up to twice upstream.max_connections.",
)
.restart()
.flag("handover", "PATH");
