//! The rows of the checks of replies.

use super::key::count;
use super::key::{Key, key};
use super::value::Kind;

pub(super) const INTEGRITY: Key = key(
    "integrity",
    "normal",
    Kind::Word(&["loose", "normal", "strict"]),
    "How far replies on connections that clients share are checked. \"normal\": a reply whose type does not fit its \
         command, like one that nobody waits for, closes that connection and all clients on it. \"strict\": besides, \
         each command is followed by a check of its own, and its reply is kept back until that is right. \"loose\": \
         types are not checked, for servers that answer known commands in ways of their own.",
);

pub(super) const CANARY_COMMANDS: Key = key(
    "lane.canary_commands",
    "1024",
    count(1, 1_000_000),
    "Commands between two checks that replies still match commands.",
);
