//! Bad inputs (proof T10), the same for the same seed.

use fastrand::Rng;

use kit::encode;

pub(super) struct Input {
    pub(super) about: &'static str,
    pub(super) bytes: Vec<u8>,
    /// The server's answer is what the proxy must answer.
    pub(super) comparable: bool,
}

/// Numbers where a number is expected.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "10",
    "11",
    "-0",
    "-1",
    "-2",
    "+3",
    "007",
    "00",
    " 1",
    "1 ",
    "1.0",
    "1e3",
    "0x10",
    "",
    "-",
    "--1",
    "abc",
    "1000000000",
    "1048576",
    "1048577",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999",
    "536870912",
    "536870913",
    "16384",
    "16385",
    "1\0",
    "\x001",
    "1\t",
    "\u{661}",
];

/// Commands that change nothing and say the same on both sides.
const GOOD: &[&[&[u8]]] = &[
    &[b"PING"],
    &[b"PING", b"x"],
    &[b"ECHO", b"a\r\n+OK\r\nb"],
    &[b"ECHO", b""],
    &[b"GET", b"nothing"],
    &[b"MGET", b"a", b"b", b"c"],
    &[b"EXISTS", b"$-1\r\n"],
    &[b"FOO\r\n+OK", b"*3\r\n", b"\0"],
    &[b"get\0", b"x"],
    &[b"STRLEN"],
    &[b"LRANGE", b"l", b"0", b"\xff\xfe"],
    &[b"MULTI"],
    &[b"EXEC"],
    &[b"DISCARD"],
    &[b"AUTH", b"x\r\n", b"\0"],
    &[b"AUTH", b"wrong"],
    &[b"SELECT", b"99999"],
    &[b"HELLO", b"9"],
    &[b"HELLO", b"3", b"BANANAS"],
    &[b"HELLO", b"3", b"PING\0\r\n"],
    &[b"OBJECT", b"FREQQ", b"x"],
    &[b"OBJECT", b"get\0", b"x"],
    &[b"XREAD", b"STREAMS", b"s"],
];

const INLINE: &[&[u8]] = &[
    b"PING\r\n",
    b"PING\n",
    b"\tPING\x0b\x0c\r\n",
    b"ECHO \"a b\"\r\n",
    b"ECHO 'a\\'b'\r\n",
    b"ECHO \"\\x00\\xff\"\r\n",
    b"ECHO \"\\xZZ\"\r\n",
    b"ECHO \"a\"b\r\n",
    b"ECHO 'a\r\n",
    b"ECHO \"a\r\n",
    b"ECHO \"\\\r\n",
    b"\"\" a\r\n",
    b"''\r\n",
    b"PING\0\r\n",
    b"PING\0\r\nPING\r\n",
    b"\0\r\n",
    b"\r\r\n",
    b"\n\n\n",
    b"   \r\n",
    b"ECHO a\rb\r\n",
    b"ECHO \xff\r\n",
    b"$4\r\nPING\r\n",
    b"+OK\r\n",
    b"-ERR\r\n",
    b":1\r\n",
    b"%1\r\n",
    b"~1\r\n",
    b">2\r\n",
    b"#t\r\n",
    b"_\r\n",
    b",1.5\r\n",
    b"(1\r\n",
    b"=4\r\ntxt:\r\n",
    b"|1\r\n",
    b"!3\r\nERR\r\n",
    b"get k\r\n",
    b"lset k\r\n",
    b"version\r\n",
    b"EHLO x\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"Host: x\r\n",
    b"post x\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PUT /x HTTP/1.1\r\n\r\n{}\r\n",
];

/// `least` inputs or a few more.
pub(super) fn corpus(seed: u64, least: usize) -> Vec<Input> {
    let mut inputs = fixed();
    let mut rng = Rng::with_seed(seed);
    while inputs.len() < least {
        inputs.push(random(&mut rng));
    }
    inputs
}

fn input(about: &'static str, bytes: impl Into<Vec<u8>>) -> Input {
    Input { about, bytes: bytes.into(), comparable: true }
}

fn fixed() -> Vec<Input> {
    let mut inputs: Vec<_> = INLINE.iter().map(|line| input("inline", *line)).collect();
    for number in NUMBERS {
        inputs.push(input("count", format!("PING\r\n*{number}\r\n$4\r\nPING\r\n")));
        inputs.push(input("length", format!("PING\r\n*2\r\n$4\r\nECHO\r\n${number}\r\nabcdefghijkl\r\n")));
    }
    inputs.push(input("deep nesting", "*1\r\n".repeat(100_000)));
    inputs.push(input("deep nesting of RESP3", ">1\r\n%1\r\n".repeat(200)));
    inputs.push(input("a bulk of 512 MiB announced", "*2\r\n$4\r\nECHO\r\n$536870912\r\nabc"));
    inputs.push(input("many arguments announced", "*2147483647\r\n$1\r\na\r\n"));
    inputs.push(input("an endless line", vec![b'a'; 70_000]));
    inputs.push(input("an endless count", [&b"*"[..], &[b'1'; 70_000]].concat()));
    inputs.push(input("an endless length", [&b"*1\r\n$"[..], &[b'1'; 70_000]].concat()));
    inputs.push(input("a NUL hides the line end", [&b"PING\0\r\n"[..], &[b'b'; 70_000]].concat()));
    inputs.push(input("nothing", ""));
    let hello = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[7; 194]].concat();
    inputs.push(Input { comparable: false, ..input("TLS", hello) });
    inputs.push(input("PostgreSQL", &b"\0\0\0\x08\x04\xd2\x16\x2f"[..]));
    inputs.push(input("MongoDB", &b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0"[..]));
    for command in GOOD {
        let bytes = encode(command);
        for cut in 0..=bytes.len() {
            inputs.push(input("cut short", &bytes[..cut]));
        }
    }
    inputs
}

fn random(rng: &mut Rng) -> Input {
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..6) {
        if rng.bool() {
            bytes.extend(encode(GOOD[rng.usize(..GOOD.len())]));
        } else {
            bytes.extend(INLINE[rng.usize(..INLINE.len())]);
        }
    }
    match rng.u8(..4) {
        0 => {
            let noise: Vec<u8> = (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect();
            let at = rng.usize(..=bytes.len());
            bytes.splice(at..at, noise);
            quiet("noise", bytes)
        }
        1 => {
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= 1 << rng.u8(..8);
            }
            quiet("flipped bits", bytes)
        }
        2 => {
            let (at, other) = (rng.usize(..bytes.len()), rng.usize(..bytes.len()));
            let piece = bytes[at.min(other)..at.max(other)].to_vec();
            if rng.bool() {
                bytes.splice(at..at, piece);
            } else {
                bytes.drain(at.min(other)..at.max(other));
            }
            quiet("a piece twice or missing", bytes)
        }
        _ => {
            let number = NUMBERS[rng.usize(..NUMBERS.len())];
            let marks: Vec<_> = (0..bytes.len()).filter(|at| matches!(bytes[*at], b'*' | b'$')).collect();
            if let Some(at) = rng.choice(marks) {
                let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(at + 1..at + 1 + digits, number.bytes());
            }
            quiet("another number", bytes)
        }
    }
}

/// Random bytes may be a TLS hello by chance, which is closed here and not by a server.
fn quiet(about: &'static str, bytes: Vec<u8>) -> Input {
    let comparable = !bytes.windows(2).any(|two| two == [0x16, 3]);
    Input { about, bytes, comparable }
}
