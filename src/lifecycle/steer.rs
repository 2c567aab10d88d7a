//! What the main thread is asked for while clients are served: by clients with the right for it, by signals, and by a
//! file that has changed.

use std::io::IsTerminal;
use std::pin::pin;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::accept::Acceptor;
use super::pause::Pauses;
use super::reload::Reloader;
use super::start::Workers;
use crate::client::{AdminCommand, AdminReply, AdminRequest};
use crate::worker::Order;

/// Grants what is asked for, until that is a drain.
pub(super) async fn until_drain(
    wishes: &mut mpsc::Receiver<AdminRequest>,
    reloader: &Reloader,
    pauses: &Pauses,
    acceptor: &Acceptor,
    workers: &Workers,
) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => Some(hangup),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be heard: reload with PROXY RELOAD");
            None
        }
    };
    // Whoever started it by hand has closed the window; a service is told to reload.
    let on_terminal = std::io::stdin().is_terminal();
    let mut look = pin!(changed(reloader));
    loop {
        tokio::select! {
            Some(asked) = wishes.recv() => match asked.wish.clone() {
                AdminCommand::Drain => return asked.answer(Ok(vec!["draining".to_owned()])),
                AdminCommand::Reload => {
                    asked.answer(reloader.reload("PROXY RELOAD", acceptor, workers).await);
                    look.set(changed(reloader));
                }
                AdminCommand::Pause(time) => pauses.begin(asked, time, reloader.running().pause_max).await,
                AdminCommand::Resume => asked.answer(pauses.resume().await),
                AdminCommand::Reconnect => asked.answer(reconnect(workers).await),
            },
            Some(()) = async { hangup.as_mut()?.recv().await } => {
                if on_terminal {
                    tracing::info!("the terminal has gone");
                    return;
                }
                let _ = reloader.reload("SIGHUP", acceptor, workers).await;
                look.set(changed(reloader));
            }
            () = look.as_mut() => {
                let _ = reloader.reload("the file has changed", acceptor, workers).await;
                look.set(changed(reloader));
            }
        }
    }
}

/// Ready when the content of the configuration file is another one than when it was read last.
async fn changed(reloader: &Reloader) {
    loop {
        let every = reloader.running().reload_poll;
        if every.is_zero() {
            return std::future::pending().await;
        }
        sleep(every).await;
        if reloader.is_outdated() {
            return;
        }
    }
}

async fn reconnect(workers: &Workers) -> AdminReply {
    let kept: usize = workers.orders().ask(Order::Reconnect).await.into_iter().sum();
    tracing::info!(kept, "upstream connections are replaced");
    Ok(vec![
        "every upstream connection is replaced as soon as nothing is in flight on it".to_owned(),
        format!("clients_with_a_connection_of_their_own_until_they_are_done:{kept}"),
    ])
}
