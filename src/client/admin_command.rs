//! What clients with the right for it, and the admin port, may ask of the main thread. One message and one answer;
//! nothing of it is on the data path.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the main thread; who asks beyond that waits in line.
pub(crate) const MAX_ADMIN_COMMANDS: usize = 16;

/// What the main thread can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminCommand {
    /// As SIGTERM: let every client finish, then end.
    Drain,
    /// As SIGHUP: read the configuration again.
    Reload,
    /// Stop starting requests of clients. Granted once nothing is in flight. When that takes longer than this time,
    /// it is refused, and nothing is held.
    Pause(Option<Duration>),
    /// End that.
    Resume,
    /// Replace every upstream connection.
    Reconnect,
}

/// The lines of a success, or why not.
pub(crate) type AdminReply = Result<Vec<String>, String>;

/// A wish and where its answer goes.
pub(crate) struct AdminRequest {
    pub admin_command: AdminCommand,
    answer: oneshot::Sender<AdminReply>,
}

impl AdminRequest {
    /// Who asked may have left.
    pub(crate) fn answer(self, granted: AdminReply) {
        let _ = self.answer.send(granted);
    }
}

/// The way to the main thread.
#[derive(Clone)]
pub(crate) struct AdminHandle(mpsc::Sender<AdminRequest>);

impl AdminHandle {
    /// The way, and its end.
    #[must_use]
    pub(crate) fn new() -> (Self, mpsc::Receiver<AdminRequest>) {
        let (sender, receiver) = mpsc::channel(MAX_ADMIN_COMMANDS);
        (Self(sender), receiver)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The main thread's reason against it, or that it is ending.
    pub(crate) async fn ask(&self, admin_command: AdminCommand) -> AdminReply {
        let (answer, granted) = oneshot::channel();
        let ending = || "the process is ending".to_owned();
        self.0.send(AdminRequest { admin_command, answer }).await.map_err(|_| ending())?;
        granted.await.unwrap_or_else(|_| Err(ending()))
    }
}
