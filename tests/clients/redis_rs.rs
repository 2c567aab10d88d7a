//! redis-rs as applications use it: a multiplexed connection, the connection manager, pub/sub, transactions.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{ConnectionManager, MultiplexedConnection};
use redis::{AsyncCommands, Client, Commands, RedisResult, Script, Value};
use tokio::time::timeout;

/// A reply that takes longer is missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything once, with `target` under test and `direct` for cross-checks.
pub(crate) fn run(target: SocketAddr, direct: SocketAddr, protocol: u8) {
    let open = |address: SocketAddr| {
        let version = if protocol == 3 { "?protocol=resp3" } else { "" };
        Client::open(format!("redis://{address}/{version}")).expect("a URL")
    };
    let (client, direct) = (open(target), open(direct));
    let prefix = format!("redis-rs:{target}:{protocol}");
    blocking_api(&client, &direct, &prefix);
    long_pipeline(&client, &prefix);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let all = async {
            many_tasks(&client, &prefix).await;
            pipelines(&client, &prefix).await;
            optimistic_locking(&client, &direct, &prefix).await;
            publish_subscribe(&client, &prefix).await;
            scripts(&client, &direct, &prefix).await;
            blocking_pops(&client, &direct, &prefix).await;
            manager(&client, &prefix).await;
            if protocol == 3 {
                client_side_cache(&client, &direct, &prefix).await;
            }
        };
        timeout(PATIENCE * 2, all).await.expect("redis-rs is done in time");
    });
}

async fn connect(client: &Client) -> MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
}

/// The synchronous connection writes the whole of a pipeline before it reads a reply.
fn long_pipeline(client: &Client, prefix: &str) {
    let mut con = client.get_connection().expect("a connection");
    con.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    con.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (key, value) = (format!("{prefix}:long"), "v".repeat(1024));
    for atomic in [false, true] {
        let mut pipe = redis::pipe();
        if atomic {
            pipe.atomic();
        }
        for _ in 0..20_000 {
            pipe.set(&key, &value).ignore().get(&key);
        }
        let got: Vec<String> = pipe.query(&mut con).expect("a pipeline");
        assert!(got.len() == 20_000 && got.iter().all(|got| *got == value), "atomic: {atomic}");
    }
}

/// The synchronous connection, with WATCH by `redis::transaction`.
fn blocking_api(client: &Client, direct: &Client, prefix: &str) {
    let mut con = client.get_connection().expect("a connection");
    let key = format!("{prefix}:sync");
    for n in 0..100 {
        let _: () = con.set(&key, n).expect("SET");
        assert_eq!(con.get::<_, i64>(&key).expect("GET"), n);
    }
    for n in 0..20 {
        let (value,): (i64,) = redis::transaction(&mut con, &[&key], |con, pipe| {
            let value: i64 = con.get(&key)?;
            pipe.set(&key, value + 1).ignore().get(&key).query(con)
        })
        .expect("a transaction");
        assert_eq!(value, 100 + n);
    }
    assert_eq!(direct.get_connection().expect("a connection").get::<_, i64>(&key).expect("GET"), 119);
    assert_eq!(con.lpush::<_, _, i64>(&key, 1).expect_err("a string is no list").code(), Some("WRONGTYPE"));
    let pong: String = redis::cmd("PING").query(&mut con).expect("still usable");
    assert_eq!(pong, "PONG");
}

/// Many tasks on one connection: each must get its own replies.
async fn many_tasks(client: &Client, prefix: &str) {
    let con = connect(client).await;
    let tasks = (0..200).map(|task| {
        let mut con = con.clone();
        let key = format!("{prefix}:task:{task}");
        async move {
            for n in 0..20_u32 {
                let token = format!("{task}.{n}");
                let echoed: String = redis::cmd("ECHO").arg(&token).query_async(&mut con).await.expect("ECHO");
                assert_eq!(echoed, token);
                let () = con.set(&key, &token).await.expect("SET");
                assert_eq!(con.get::<_, String>(&key).await.expect("GET"), token);
            }
        }
    });
    futures_util::future::join_all(tasks).await;
    let big = vec![7_u8; (1 << 20) + 1];
    let mut con = con;
    let () = con.set(format!("{prefix}:big"), &big).await.expect("SET of 1 MiB");
    assert!(con.get::<_, Vec<u8>>(format!("{prefix}:big")).await.expect("GET of 1 MiB") == big);
}

async fn pipelines(client: &Client, prefix: &str) {
    let mut con = connect(client).await;
    for size in [1, 16, 300] {
        for atomic in [false, true] {
            let mut pipe = redis::pipe();
            if atomic {
                pipe.atomic();
            }
            for n in 0..size {
                let key = format!("{prefix}:pipe:{n}");
                pipe.set(&key, n).ignore().get(key);
            }
            let got: Vec<i64> = pipe.query_async(&mut con).await.expect("a pipeline");
            assert_eq!(got, (0..size).collect::<Vec<_>>(), "pipeline of {size}, atomic: {atomic}");
        }
    }
    let map: std::collections::BTreeMap<String, i64> = {
        let key = format!("{prefix}:hash");
        let () = con.hset_multiple(&key, &[("a", 1), ("b", 2)]).await.expect("HSET");
        con.hgetall(key).await.expect("HGETALL")
    };
    assert_eq!(map, [("a".to_owned(), 1), ("b".to_owned(), 2)].into());
}

async fn optimistic_locking(client: &Client, direct: &Client, prefix: &str) {
    let key = format!("{prefix}:watched");
    let workers = (0..6).map(|_| {
        let key = key.clone();
        async move {
            for _ in 0..10 {
                // A connection of its own: WATCH is a state of the connection.
                let con = connect(client).await;
                let one = |mut con: MultiplexedConnection, mut pipe: redis::Pipeline| {
                    let key = key.clone();
                    async move {
                        let value: Option<i64> = con.get(&key).await?;
                        let value = value.unwrap_or(0) + 1;
                        pipe.set(&key, value).ignore().get(&key).query_async::<Option<(i64,)>>(&mut con).await
                    }
                };
                let (value,) = redis::aio::transaction_async(con, &[&key], one).await.expect("a transaction");
                assert!(value > 0);
            }
        }
    });
    futures_util::future::join_all(workers).await;
    let total: i64 = connect(direct).await.get(&key).await.expect("GET");
    assert_eq!(total, 60, "no lost update");
}

async fn publish_subscribe(client: &Client, prefix: &str) {
    let (channel, other) = (format!("{prefix}:channel"), format!("{prefix}:other"));
    let mut pubsub = client.get_async_pubsub().await.expect("a pub/sub connection");
    pubsub.subscribe(&channel).await.expect("SUBSCRIBE");
    pubsub.psubscribe(format!("{prefix}:oth*")).await.expect("PSUBSCRIBE");
    let mut con = connect(client).await;
    for n in 0..50 {
        assert_eq!(con.publish::<_, _, i64>(&channel, n).await.expect("PUBLISH"), 1);
        assert_eq!(con.publish::<_, _, i64>(&other, n).await.expect("PUBLISH"), 1);
    }
    {
        let mut messages = pubsub.on_message();
        for n in 0..50 {
            for wanted in [&channel, &other] {
                let message = timeout(PATIENCE, messages.next()).await.expect("a message in time").expect("a message");
                assert_eq!(message.get_channel_name(), wanted);
                assert_eq!(message.get_payload::<i64>().expect("a number"), n);
            }
        }
    }
    pubsub.unsubscribe(&channel).await.expect("UNSUBSCRIBE");
    assert_eq!(con.publish::<_, _, i64>(&channel, "late").await.expect("PUBLISH"), 0);
}

async fn scripts(client: &Client, direct: &Client, prefix: &str) {
    let mut con = connect(client).await;
    let mut admin = connect(direct).await;
    let script = Script::new("return {ARGV[1], redis.call('INCR', KEYS[1])}");
    for n in 1..=30_i64 {
        if n % 10 == 0 {
            let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut admin).await.expect("SCRIPT FLUSH");
        }
        let got: (i64, i64) =
            script.key(format!("{prefix}:script")).arg(n).invoke_async(&mut con).await.expect("a script");
        assert_eq!(got, (n, n));
    }
}

async fn blocking_pops(client: &Client, direct: &Client, prefix: &str) {
    let key = format!("{prefix}:queue");
    let mut admin = connect(direct).await;
    let none: Option<(String, String)> = connect(client).await.blpop(&key, 0.1).await.expect("BLPOP");
    assert_eq!(none, None);
    let waiting = (0..10).map(|_| {
        let key = key.clone();
        async move {
            let (_, value): (String, i64) = connect(client).await.blpop(&key, 20.0).await.expect("BLPOP");
            value
        }
    });
    let feeding = async {
        for n in 0..10 {
            let _: i64 = admin.rpush(&key, n).await.expect("RPUSH");
        }
    };
    let (mut got, ()) = tokio::join!(futures_util::future::join_all(waiting), feeding);
    got.sort_unstable();
    assert_eq!(got, (0..10).collect::<Vec<_>>(), "each element once");
}

/// The connection manager comes back by itself after its connection was killed.
async fn manager(client: &Client, prefix: &str) {
    let mut manager = ConnectionManager::new(client.clone()).await.expect("a manager");
    let key = format!("{prefix}:manager");
    let () = manager.set(&key, "here").await.expect("SET");
    let id: i64 = redis::cmd("CLIENT").arg("ID").query_async(&mut manager).await.expect("CLIENT ID");
    let killed: Value = redis::cmd("CLIENT")
        .arg(&["KILL", "ID"])
        .arg(id)
        .query_async(&mut connect(client).await)
        .await
        .expect("CLIENT KILL");
    assert_eq!(killed, Value::Int(1));
    let mut tries = 0;
    let value = loop {
        let got: RedisResult<String> = manager.get(&key).await;
        match got {
            Ok(value) => break value,
            Err(error) if tries < 100 && (error.is_io_error() || error.is_connection_dropped()) => tries += 1,
            Err(error) => panic!("after {tries} tries: {error}"),
        }
    };
    assert_eq!(value, "here");
}

/// CLIENT TRACKING: the second read is a hit, and a write by somebody else takes the entry away.
async fn client_side_cache(client: &Client, direct: &Client, prefix: &str) {
    let config = redis::AsyncConnectionConfig::new()
        .set_response_timeout(Some(PATIENCE))
        .set_cache_config(redis::caching::CacheConfig::new());
    let mut cached = client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection");
    let mut other = connect(direct).await;
    let key = format!("{prefix}:cached");
    for round in 0..20 {
        let _: () = other.set(&key, round).await.expect("SET");
        loop {
            let seen: i64 = cached.get(&key).await.expect("GET");
            if seen == round {
                break; // an invalidation may still be on its way; an entry that stays wrong never ends this
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(cached.get::<_, i64>(&key).await.expect("GET"), round);
    }
    let statistics = cached.get_cache_statistics().expect("a cache");
    assert!(statistics.hit >= 20 && statistics.invalidate >= 10, "{statistics:?}");
}
