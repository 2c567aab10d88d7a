//! What the main thread is asked for while clients are served: by clients and browsers with the right for it, by SIGHUP,
//! and by a configuration file that has changed.

use std::io::IsTerminal;
use std::pin::pin;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client_listeners::ClientListeners;
use super::proxy_pause::ProxyPause;
use super::reload::Reloader;
use super::workers::Workers;
use crate::client::{AdminCommand, AdminReply, AdminRequest};
use crate::worker::WorkerCommand;

/// Carries out commands until one is a drain.
pub(super) async fn until_drain(
    admin_handle: &mut mpsc::Receiver<AdminRequest>,
    reloader: &Reloader,
    pause: &ProxyPause,
    listeners: &ClientListeners,
    workers: &Workers,
) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => Some(hangup),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be heard: reload with PROXY RELOAD");
            None
        }
    };
    // On a terminal SIGHUP says that the window was closed; to a service it says to reload.
    let on_terminal = std::io::stdin().is_terminal();
    let mut file_change = pin!(changed(reloader));
    loop {
        tokio::select! {
            Some(asked) = admin_handle.recv() => match asked.admin_command.clone() {
                AdminCommand::Drain => return asked.answer(Ok(vec!["draining".to_owned()])),
                AdminCommand::Reload => {
                    asked.answer(reloader.reload("PROXY RELOAD", listeners, workers).await);
                    file_change.set(changed(reloader));
                }
                AdminCommand::Pause(time) => pause.begin(asked, time, reloader.running().pause_max).await,
                AdminCommand::Resume => asked.answer(pause.resume().await),
                AdminCommand::Reconnect => asked.answer(reconnect(workers).await),
            },
            Some(()) = async { hangup.as_mut()?.recv().await } => {
                if on_terminal {
                    tracing::info!("the terminal has gone");
                    return;
                }
                let _ = reloader.reload("SIGHUP", listeners, workers).await;
                file_change.set(changed(reloader));
            }
            () = file_change.as_mut() => {
                let _ = reloader.reload("the file has changed", listeners, workers).await;
                file_change.set(changed(reloader));
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
    let kept: usize = workers.commands().ask(WorkerCommand::Reconnect).await.into_iter().sum();
    tracing::info!(kept, "upstream connections are replaced");
    Ok(vec![
        "every upstream connection is replaced as soon as nothing is in flight on it".to_owned(),
        format!("clients_with_a_connection_of_their_own_until_they_are_done:{kept}"),
    ])
}
