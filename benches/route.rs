//! What the decision costs: the command's name looked up, and the route.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use respmux::internals::command::{CommandTable, Policy};
use respmux::internals::router::{Args, Facts, SubscriptionView, route_free};
use respmux::internals::session::TransactionGuard;

fn decide(c: &mut Criterion) {
    let table = CommandTable::new();
    let facts = Facts {
        authenticated: true,
        guard: TransactionGuard::Intact,
        subscriptions: SubscriptionView::Open,
        policy: Policy::default(),
        debug: true,
    };
    let requests: [(&str, &[&'static [u8]]); 5] = [
        ("GET", &[b"GET", b"key"]),
        ("hset (lower case)", &[b"hset", b"key", b"field", b"value"]),
        ("CLIENT SETNAME", &[b"CLIENT", b"SETNAME", b"x"]),
        ("XREADGROUP", &[b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"10", b"STREAMS", b"s", b">"]),
        ("unknown", &[b"NOSUCHCOMMAND", b"x"]),
    ];
    for (name, words) in requests {
        let words = words.to_vec();
        c.bench_function(&format!("route/{name}"), |b| {
            b.iter(|| {
                let words = black_box(&words);
                let lookup = table.lookup(words.nth(0), Some(words.nth(1)));
                route_free(&table, lookup, facts, words)
            });
        });
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
