//! What the metrics of one request on a shared connection cost: everything that is counted for a GET that is read,
//! written, answered and sent by itself, and the share of one GET among sixteen that travel together.
//!
//! `RECORD=N` records so many single requests and ends: `tests/metrics/cost.py` counts instructions and time with it.

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use criterion::{Criterion, criterion_group};
use respmux::internals::command::{CommandId, LatencyKind};
use respmux::internals::telemetry::LatencyClass;
use respmux::internals::telemetry::Shard;

/// Rows of the command table, about.
const COMMANDS: usize = 450;

/// What is counted once for each read and write.
fn per_turn(shard: &Shard, commands: usize) {
    // The clock is read for the time of the write; other readings serve limits as well.
    black_box(Instant::now());
    shard.client_received_bytes.add(black_box(25));
    shard.batch_written(black_box(commands));
    shard.upstream_sent_bytes.add(black_box(25 * commands) as u64);
    shard.upstream_received_bytes.add(black_box(30 * commands) as u64);
}

/// What is counted for each request.
fn per_request(shard: &Shard, number: u64) {
    let nanos = black_box(60_000 + number % 400_000);
    shard.upstream_latency(LatencyClass::Read, nanos);
    shard.answered(CommandId(black_box(17)), LatencyKind::Read, nanos + 9_000);
}

fn record(c: &mut Criterion) {
    let shard = Shard::new(COMMANDS);
    let mut number = 0;
    c.bench_function("record/alone", |b| {
        b.iter(|| {
            number += 1;
            per_turn(&shard, 1);
            per_request(&shard, number);
        });
    });
    c.bench_function("record/sixteen together", |b| {
        b.iter(|| {
            per_turn(&shard, 16);
            for _ in 0..16 {
                number += 1;
                per_request(&shard, number);
            }
        });
    });
}

criterion_group!(benches, record);

fn main() {
    let Some(times) = std::env::var("RECORD").ok().and_then(|text| text.parse::<u64>().ok()) else {
        return benches();
    };
    let together = std::env::var("TOGETHER").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let shard = Shard::new(COMMANDS);
    let begun = Instant::now();
    for number in 0..times {
        if number % together == 0 {
            per_turn(&shard, usize::try_from(together).unwrap_or(1));
        }
        per_request(&shard, number);
    }
    let each = begun.elapsed().as_nanos() as f64 / times.max(1) as f64;
    writeln!(std::io::stdout(), "{each:.3}").expect("somebody reads the figure");
}
