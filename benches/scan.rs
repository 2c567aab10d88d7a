//! What it costs to find the ends of requests and replies: our scanners beside the range decoders of
//! `redis-protocol`, on the same bytes. Time per iteration; a pipeline of 16 is one iteration.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use redis_protocol::{resp2, resp3};
use respmux::internals::resp::{Advance, ReplyScanner, RequestLimits, RequestScanner, Scan, encode};

/// Bytes per read in the benchmark of a frame that arrives in pieces.
const READ: usize = 16 * 1024;

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::command(&mut out, args);
    out.to_vec()
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let key = b"key:000000001234";
    let get = command(&[b"GET", key]);
    let mget: Vec<&[u8]> = std::iter::once(&b"MGET"[..]).chain([&key[..]; 9]).collect();
    vec![
        ("GET", get.clone()),
        ("SET 32 B", command(&[b"SET", key, &[b'v'; 32]])),
        ("16 GETs", get.repeat(16)),
        ("SET 4 KiB", command(&[b"SET", key, &[b'v'; 4096]])),
        ("array of 10", command(&mget)),
    ]
}

fn replies() -> Vec<(&'static str, Vec<u8>)> {
    let bulk = |len: usize| {
        let mut out = BytesMut::new();
        encode::bulk(&mut out, &vec![b'v'; len]);
        out.to_vec()
    };
    let mut array = b"*10\r\n".to_vec();
    array.extend(bulk(32).repeat(10));
    vec![
        ("+OK", b"+OK\r\n".to_vec()),
        ("integer", b":1234\r\n".to_vec()),
        ("bulk 32 B", bulk(32)),
        ("16 bulks 32 B", bulk(32).repeat(16)),
        ("bulk 4 KiB", bulk(4096)),
        ("array of 10", array),
    ]
}

/// The same work with the range decoder of either protocol: frames until the bytes are used up.
fn decode_ranges(decode: impl Fn(&[u8]) -> usize, buf: &[u8]) {
    let mut at = 0;
    while at < buf.len() {
        at += decode(&buf[at..]);
    }
}

fn resp2_range(buf: &[u8]) -> usize {
    black_box(resp2::decode::decode_range(buf).expect("a valid frame").expect("a whole frame")).1
}

fn resp3_range(buf: &[u8]) -> usize {
    black_box(resp3::decode::complete::decode_range(buf).expect("a valid frame").expect("a whole frame")).1
}

fn scan_requests(scanner: &mut RequestScanner, buf: &[u8]) {
    let limits = RequestLimits::default();
    let mut resume = None;
    let mut at = 0;
    while at < buf.len() {
        match scanner.scan(&buf[at..], &mut resume, &limits) {
            Scan::Complete { len, .. } => at += len,
            other => panic!("{other:?}"),
        }
        black_box(scanner.arg(buf, 0));
    }
}

fn scan_replies(scanner: &mut ReplyScanner, buf: &[u8]) {
    let mut at = 0;
    while at < buf.len() {
        match scanner.advance(&buf[at..]) {
            Advance::Complete { len, kind } => {
                black_box(kind);
                at += len;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn bench_requests(criterion: &mut Criterion) {
    for (name, buf) in requests() {
        let mut group = criterion.benchmark_group(format!("request/{name}"));
        group.throughput(Throughput::Bytes(buf.len() as u64));
        let mut scanner = RequestScanner::new();
        group.bench_function("respmux", |b| b.iter(|| scan_requests(&mut scanner, black_box(&buf))));
        group.bench_function("resp2 range", |b| b.iter(|| decode_ranges(resp2_range, black_box(&buf))));
        group.bench_function("resp3 range", |b| b.iter(|| decode_ranges(resp3_range, black_box(&buf))));
    }
}

fn bench_replies(criterion: &mut Criterion) {
    for (name, buf) in replies() {
        let mut group = criterion.benchmark_group(format!("reply/{name}"));
        group.throughput(Throughput::Bytes(buf.len() as u64));
        let mut scanner = ReplyScanner::new();
        group.bench_function("respmux", |b| b.iter(|| scan_replies(&mut scanner, black_box(&buf))));
        group.bench_function("resp2 range", |b| b.iter(|| decode_ranges(resp2_range, black_box(&buf))));
        group.bench_function("resp3 range", |b| b.iter(|| decode_ranges(resp3_range, black_box(&buf))));
    }
}

/// An array of 10,000 elements that arrives in reads of 16 KiB: a range decoder starts over at each.
fn bench_pieces(criterion: &mut Criterion) {
    let mut buf = b"*10000\r\n".to_vec();
    buf.extend(b"$32\r\nvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv\r\n".repeat(10_000));
    let mut group = criterion.benchmark_group("pieces/array of 10,000 in 16 KiB reads");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(buf.len() as u64));
    let ends = || (READ..buf.len()).step_by(READ).chain([buf.len()]);
    let mut replies = ReplyScanner::new();
    group.bench_function("respmux reply", |b| {
        b.iter(|| {
            for chunk in buf.chunks(READ) {
                black_box(replies.advance(black_box(chunk)));
            }
        });
    });
    let mut requests = RequestScanner::new();
    group.bench_function("respmux request", |b| {
        b.iter(|| {
            let (limits, mut resume) = (RequestLimits::default(), None);
            for end in ends() {
                black_box(requests.scan(black_box(&buf[..end]), &mut resume, &limits));
            }
        });
    });
    group.bench_function("resp2 range", |b| {
        b.iter(|| {
            for end in ends() {
                black_box(resp2::decode::decode_range(black_box(&buf[..end])).is_ok());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, bench_requests, bench_replies, bench_pieces);
criterion_main!(benches);
