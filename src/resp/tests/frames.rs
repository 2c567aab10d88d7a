//! Frames that we write, and frames that we read into values.

use bytes::{Bytes, BytesMut};

use crate::resp::cold::{Value, decode, element_ranges};
use crate::resp::encode;

fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

#[test]
fn frames_are_written_for_the_version_of_the_client() {
    let both = |write: fn(&mut BytesMut, u8)| [2, 3].map(|resp| written(|out| write(out, resp)));
    assert_eq!(both(|out, resp| encode::map_header(out, 7, resp)), [&b"*14\r\n"[..], b"%7\r\n"]);
    assert_eq!(both(|out, resp| encode::set_header(out, 7, resp)), [b"*7\r\n", b"~7\r\n"]);
    assert_eq!(both(|out, resp| encode::push_header(out, 3, resp)), [b"*3\r\n", b">3\r\n"]);
    assert_eq!(both(encode::null), [&b"$-1\r\n"[..], b"_\r\n"]);
    assert_eq!(both(encode::null_array), [&b"*-1\r\n"[..], b"_\r\n"]);
    assert_eq!(
        both(|out, resp| encode::verbatim_txt(out, b"a\nb", resp)),
        [&b"$3\r\na\nb\r\n"[..], b"=7\r\ntxt:a\nb\r\n"]
    );
}

#[test]
fn scalars_and_commands() {
    assert_eq!(written(|out| encode::integer(out, i64::MIN)), b":-9223372036854775808\r\n");
    assert_eq!(written(|out| encode::bulk(out, b"")), b"$0\r\n\r\n");
    assert_eq!(written(|out| encode::array_header(out, 0)), b"*0\r\n");
    assert_eq!(written(|out| encode::command(out, &["GET", "k"])), b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
}

#[test]
fn a_line_cannot_be_broken_by_its_text() {
    assert_eq!(written(|out| encode::error(out, b"ERR a\r\nb\r\n")), b"-ERR a  b\r\n");
    assert_eq!(written(|out| encode::error(out, b"\r\n")), b"-\r\n");
}

fn text(text: &'static str) -> Value {
    Value::Text(Bytes::from_static(text.as_bytes()))
}

#[test]
fn scalars_of_both_versions_are_decoded() {
    let table: [(&[u8], Value); 14] = [
        (b"$-1\r\n", Value::Nil),
        (b"*-1\r\n", Value::Nil),
        (b"_\r\n", Value::Nil),
        (b":-7\r\n", Value::Int(-7)),
        (b",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
        (b",3.5\r\n", Value::Double(3.5)),
        (b"#t\r\n", Value::Bool(true)),
        (b"+OK\r\n", text("OK")),
        (b"$3\r\na\r\n\r\n", text("a\r\n")),
        (b"=7\r\ntxt:abc\r\n", text("abc")),
        (b"(123\r\n", text("123")),
        (b"-LOADING\r\n", Value::Error(Bytes::from_static(b"LOADING"))),
        (b"-ERR \xff\r\n", Value::Error(Bytes::from_static(b"ERR \xff"))),
        (b"!5\r\nERR x\r\n", Value::Error(Bytes::from_static(b"ERR x"))),
    ];
    for (frame, value) in table {
        assert_eq!(decode(frame), Some(value), "{}", frame.escape_ascii());
    }
}

#[test]
fn fields_are_found_in_maps_and_flat_lists() {
    for frame in
        [&b"%2\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:11\r\n"[..], b"*4\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:11\r\n"]
    {
        let value = decode(frame).unwrap();
        assert_eq!(value.field("id").and_then(Value::as_int), Some(11));
        assert_eq!(value.field("proto").and_then(Value::as_int), Some(3));
        assert_eq!(value.field("ID"), None);
        assert_eq!(value.pairs().len(), 2);
    }
    let value = decode(b"%3\r\n+b\r\n:1\r\n+a\r\n~1\r\n_\r\n+c\r\n:2\r\n").unwrap();
    let pairs = [(text("b"), Value::Int(1)), (text("a"), Value::List(vec![Value::Nil])), (text("c"), Value::Int(2))];
    assert_eq!(value, Value::Map(pairs.to_vec()), "in the order of the bytes");
}

#[test]
fn lists_may_hold_anything_and_attributes_are_dropped() {
    let value = decode(b"|1\r\n+ttl\r\n:1\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n").unwrap();
    assert_eq!(value, Value::List(vec![text("invalidate"), Value::List(vec![text("k")])]));
    assert_eq!(value.as_list().map(<[Value]>::len), Some(2));
    let value = decode(b"*2\r\n$-1\r\n*1\r\n-ERR x\r\n").unwrap();
    assert_eq!(value, Value::List(vec![Value::Nil, Value::List(vec![Value::Error(Bytes::from_static(b"ERR x"))])]));
}

/// As `COMMAND` has them in RESP3: a set of maps, and here also a nil of RESP2, a repeated key, a push and attributes.
#[test]
fn what_servers_nest_is_decoded() {
    let value = decode(b"*2\r\n~2\r\n%1\r\n+flags\r\n~1\r\n+RO\r\n*0\r\n$-1\r\n").unwrap();
    let spec = Value::Map(vec![(text("flags"), Value::List(vec![text("RO")]))]);
    let specs = Value::List(vec![spec, Value::List(vec![])]);
    assert_eq!(value, Value::List(vec![specs, Value::Nil]));

    let value = decode(b"%2\r\n+a\r\n*-1\r\n+a\r\n>1\r\n+push\r\n|1\r\n+ttl\r\n:9\r\n_\r\n").unwrap();
    let pairs = vec![(text("a"), Value::Nil), (text("a"), Value::Nil)];
    assert_eq!(value, Value::Map(pairs));
}

#[test]
fn only_one_whole_frame_is_decoded() {
    for frame in [&b""[..], b"+OK", b"+OK\r\n+OK\r\n", b"$?\r\n", b"*2\r\n:1\r\n", b"HELLO 3\r\n", b"=7\r\nxyz:abc\r\n"]
    {
        assert_eq!(decode(frame), None, "{}", frame.escape_ascii());
    }
    let nested = |depth: usize| [&b"*1\r\n".repeat(depth)[..], b":1\r\n"].concat();
    assert!(decode(&nested(128)).is_some());
    assert!(decode(&nested(129)).is_none());
}

#[test]
fn the_elements_of_an_array_are_found_without_decoding() {
    let frame = b"*3\r\n+OK\r\n>1\r\n+push\r\n|1\r\n+a\r\n+b\r\n*2\r\n:1\r\n:2\r\n$-1\r\n";
    let parts: Vec<&[u8]> = element_ranges(frame).unwrap().into_iter().map(|range| &frame[range]).collect();
    assert_eq!(parts, [&b"+OK\r\n"[..], b"|1\r\n+a\r\n+b\r\n*2\r\n:1\r\n:2\r\n", b"$-1\r\n"]);
    assert_eq!(element_ranges(b"*0\r\n"), Some(vec![]));
    for frame in [&b""[..], b"+OK\r\n", b"*-1\r\n", b"_\r\n", b"*2\r\n:1\r\n", b"*1\r\n:1\r\n:2\r\n", b"*1\r\nx\r\n"] {
        assert_eq!(element_ranges(frame), None, "{}", frame.escape_ascii());
    }
}
