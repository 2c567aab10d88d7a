//! What is understood, and what is left to the server.

use super::*;
use crate::command::StreamWait;

fn pop(line: &str) -> Option<Pop> {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    Pop::parse(&words)
}

fn wire(line: &str) -> BytesMut {
    let mut out = BytesMut::new();
    encode::command(&mut out, &line.split(' ').collect::<Vec<_>>());
    out
}

#[test]
fn each_has_its_twin() {
    let table = [
        ("BLPOP a b 0", "LMPOP 2 a b LEFT"),
        ("brpop a 1", "LMPOP 1 a RIGHT"),
        ("BZPOPMIN z 0", "ZMPOP 1 z MIN"),
        ("BZPOPMAX z y 0", "ZMPOP 2 z y MAX"),
        ("BLMPOP 0 2 a b left COUNT 3", "LMPOP 2 a b left COUNT 3"),
        ("BZMPOP 0 1 z MAX", "ZMPOP 1 z MAX"),
        ("BLMOVE s d LEFT right 0", "LMOVE s d LEFT right"),
        ("BRPOPLPUSH s d 0", "RPOPLPUSH s d"),
    ];
    for (own, non_blocking) in table {
        assert_eq!(pop(own).unwrap().non_blocking(), wire(non_blocking), "{own}");
    }
    assert_eq!(pop("blpop a 7").unwrap().armed(), wire("BLPOP a 0"));
    assert_eq!(pop("BLMPOP 7 1 a LEFT").unwrap().armed(), wire("BLMPOP 0 1 a LEFT"));
    assert_eq!(pop("BLPOP a 7").unwrap().sliced(), wire("BLPOP a 0.4"));
}

#[test]
fn in_doubt_the_server_decides() {
    for line in [
        "BLPOP a -1",
        "BLPOP a 1e3",
        "BLPOP a 0x1",
        "BLPOP a inf",
        "BLPOP a +1",
        "BLPOP a .5",
        "BLPOP a 1.",
        "BLPOP a 99999999999",
        "BLPOP 1",
        "BLMPOP 0 0 a LEFT",
        "BLMPOP 0 2 a LEFT",
        "BLMPOP 0 1 a UP",
        "BLMPOP 0 1 a LEFT COUNT 0",
        "BLMPOP 0 1 a LEFT COUNT",
        "BLMPOP x 1 a LEFT",
        "BZMPOP 0 1 a LEFT",
        "BLMOVE s d LEFT UP 0",
        "BRPOPLPUSH s d",
    ] {
        assert!(pop(line).is_none(), "{line}");
    }
}

#[test]
fn timeouts_are_rounded_up() {
    let millis = |text: &str| decimal_timeout(text.as_bytes()).unwrap().map(|d| d.as_millis());
    assert_eq!(millis("0"), None);
    assert_eq!(millis("0.000"), None);
    assert_eq!(millis("0.0001"), Some(1));
    assert_eq!(millis("0.0019"), Some(2));
    assert_eq!(millis("00012.5"), Some(12_500));
}

#[test]
fn replies_of_the_twin_become_replies_of_the_command() {
    let lists = pop("BLPOP a 0").unwrap();
    let non_blocking = b"*2\r\n$1\r\na\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n";
    let all = lists.elements(non_blocking).unwrap();
    assert_eq!(all, [b"*2\r\n$1\r\na\r\n$1\r\nx\r\n".to_vec(), b"*2\r\n$1\r\na\r\n$1\r\ny\r\n".to_vec()]);
    assert_eq!(lists.give_back(&all[0]).unwrap(), wire("LPUSH a x"));
    assert_eq!(popped_key(&all[0]), Some(&b"a"[..]));
    let scores = pop("BZPOPMIN z 0").unwrap();
    for score in ["$3\r\n1.5\r\n", ",1.5\r\n"] {
        let non_blocking = format!("*2\r\n$1\r\nz\r\n*1\r\n*2\r\n$1\r\nm\r\n{score}");
        let all = scores.elements(non_blocking.as_bytes()).unwrap();
        assert_eq!(all, [format!("*3\r\n$1\r\nz\r\n$1\r\nm\r\n{score}").into_bytes()]);
        assert_eq!(scores.give_back(&all[0]).unwrap(), wire("ZADD z NX 1.5 m"));
    }
    let many = pop("BLMPOP 0 1 a RIGHT COUNT 9").unwrap();
    assert_eq!(many.give_back(non_blocking).unwrap(), wire("RPUSH a y x"));
    let many = pop("BZMPOP 0 1 z MIN COUNT 9").unwrap();
    let non_blocking = b"*2\r\n$1\r\nz\r\n*2\r\n*2\r\n$1\r\nm\r\n$1\r\n1\r\n*2\r\n$1\r\nn\r\n$1\r\n2\r\n";
    assert_eq!(many.give_back(non_blocking).unwrap(), wire("ZADD z NX 1 m 2 n"));
    assert!(lists.elements(b"*1\r\n$1\r\na\r\n").is_none());
    assert!(pop("BLMOVE s d LEFT LEFT 0").unwrap().give_back(b"$1\r\nx\r\n").is_none());
}

#[test]
fn questions_are_put_together() {
    let one = pop("BRPOP a 0").unwrap();
    assert_eq!(one.mergeable(), Some(&b"a"[..]));
    assert_eq!(one.merged(&[b"a", b"b"]), wire("LMPOP 2 a b RIGHT"));
    assert_eq!(one.burst(3).unwrap(), (wire("LMPOP 1 a RIGHT COUNT 3"), vec![3]));
    assert!(pop("BRPOP a b 0").unwrap().mergeable().is_none());
    assert_eq!(pop("BRPOPLPUSH s d 0").unwrap().burst(2).unwrap().1, [1, 1]);
}

#[test]
fn stream_reads_lose_their_block_and_their_dollars() {
    let words = |line: &str| line.split(' ').map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
    let parse = |line: &str| {
        let words = words(line);
        StreamWait::parse(&words.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let mut read = parse("XREAD COUNT 2 BLOCK 100 STREAMS a b $ 5-0").unwrap();
    assert_eq!(read.timeout(), Some(Duration::from_millis(100)));
    assert_eq!(read.streams_from_their_end(), [(0, b"a".to_vec())]);
    assert!(read.set_id(0, b"*1\r\n*2\r\n$3\r\n7-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n"));
    assert_eq!(read.question(), wire("XREAD COUNT 2 STREAMS a b 7-1 5-0"));
    assert!(read.set_id(0, b"*0\r\n"));
    assert_eq!(read.question(), wire("XREAD COUNT 2 STREAMS a b 0-0 5-0"));
    let group = parse("XREADGROUP GROUP g c BLOCK 0 NOACK STREAMS s >").unwrap();
    assert_eq!(group.question(), wire("XREADGROUP GROUP g c NOACK STREAMS s >"));
    assert_eq!(group.timeout(), None);
    for bad in ["XREAD BLOCK -1 STREAMS s $", "XREAD BLOCK 0 STREAMS s", "XREAD STREAMS s 0", "XREAD BLOCK 0 s 0"] {
        assert!(parse(bad).is_none(), "{bad}");
    }
}
