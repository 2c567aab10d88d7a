//! What happens to the upstream connections during a storm, straight at the server.

use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use crate::storm::Shared;
use kit::resp::Value;
use kit::wire::Wire;

/// The ids of all connections to the address that the proxy uses.
async fn upstream_ids(direct: &mut Wire, shared: &Shared) -> Vec<String> {
    let Ok(Value::Bulk(text)) = direct.call(&["CLIENT", "LIST"]).await else { return Vec::new() };
    let address = format!(" laddr={} ", shared.config.upstream);
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| line.contains(&address));
    lines.filter_map(|line| Some(line.strip_prefix("id=")?.split(' ').next()?.to_owned())).collect()
}

/// Notes the highest number of upstream connections at once.
pub(crate) async fn count_connections(shared: Rc<Shared>) {
    let Ok(mut direct) = Wire::connect(shared.config.direct).await else { return };
    while !shared.stop.get() {
        let count = upstream_ids(&mut direct, &shared).await.len() as u64;
        {
            let most = &mut shared.tally.borrow_mut().max_upstream;
            *most = count.max(*most);
        }
        // In the control arm this list is as long as the storm is wide.
        sleep(Duration::from_millis(20 + count / 2)).await;
    }
}

/// Kills one, some or all upstream connections, or pauses the server, at random times.
pub(crate) async fn kill_connections(shared: Rc<Shared>) {
    let Ok(mut direct) = Wire::connect(shared.config.direct).await else { return };
    let mut rng = Rng::with_seed(shared.config.seed ^ 0xC4A0_5C4A);
    loop {
        sleep(Duration::from_millis(rng.u64(20..500))).await;
        match rng.u8(..10) {
            0 => kill_all(&mut direct, &shared).await,
            1 => {
                let kind = if rng.bool() { "ALL" } else { "WRITE" };
                let _ = direct.call(&["CLIENT", "PAUSE", "40", kind]).await;
            }
            _ => {
                let mut ids = upstream_ids(&mut direct, &shared).await;
                rng.shuffle(&mut ids);
                for id in ids.iter().take(rng.usize(1..4)) {
                    let reply = direct.call(&["CLIENT", "KILL", "ID", id]).await;
                    note(&shared, reply.ok());
                }
            }
        }
    }
}

/// `CLIENT KILL TYPE normal`, but for the connections of the run itself.
async fn kill_all(direct: &mut Wire, shared: &Shared) {
    let address = shared.config.upstream.to_string();
    let reply = direct.call(&["CLIENT", "KILL", "TYPE", "normal", "LADDR", &address, "SKIPME", "yes"]).await;
    note(shared, reply.ok());
}

fn note(shared: &Shared, killed: Option<Value>) {
    if let Some(Value::Int(count)) = killed {
        shared.tally.borrow_mut().kills += u64::try_from(count).unwrap_or(0);
    }
}
