//! Requests to the management API that two parsers could read differently, or none at all; bodies that are no JSON.

use image_launch::net::{API, Wire};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);
/// A slot is given to nobody for longer: the time for a head, and for the farewell.
const SLOT: Duration = Duration::from_secs(16);
/// Connections of the API at once.
const SLOTS: usize = 4;

/// What is proper.
#[derive(Clone, Copy, Debug)]
enum Proper {
    /// A problem with a status in this range.
    Problem(u16, u16),
    /// Any answer, or the end of the connection, but no silence.
    Answered,
}

struct Case {
    what: String,
    bytes: Vec<u8>,
    proper: Proper,
}

/// Plays every case while an honest client goes on.
pub(crate) fn bad_requests() {
    let honest = Honest::start();
    let mut cases = heads();
    cases.extend(lengths());
    cases.extend(bodies());
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|case| play(case).err().map(|error| format!("{}: {error}", case.what)))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    many_at_once().unwrap();
    println!("{} cases", cases.len());
    honest.finish();
}

/// A byte now and then on every slot there is: they come back.
pub(crate) fn slow_requests() {
    get_health(SOON).unwrap();
    let start = Instant::now();
    let mut crowd: Vec<TcpStream> = Vec::new();
    while crowd.len() < SLOTS {
        crowd.push(connect(SOON).unwrap());
    }
    let mut bytes =
        b"GET /v1 HTTP/1.1\r\nhost: appliance\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
            .iter();
    let mut last = Instant::now();
    while get_health(Duration::from_millis(300)).is_err() {
        assert!(start.elapsed() < SLOT, "no slot came back");
        if last.elapsed() > Duration::from_secs(1)
            && let Some(byte) = bytes.next()
        {
            last = Instant::now();
            for slow in &mut crowd[1..] {
                let _ = slow.write_all(&[*byte]);
            }
        }
    }
    println!("a slot came back after {:?}", start.elapsed());
    for slow in crowd {
        let answer = hear(slow, SLOT).unwrap();
        assert!(answer.is_empty() || status(&answer) == Ok(408), "{}", String::from_utf8_lossy(&answer));
    }
}

fn play(case: &Case) -> Result<(), String> {
    let mut stream = connect(SOON)?;
    // The server may have had enough before all is sent.
    let _ = stream.write_all(&case.bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let answer = hear(stream, SOON)?;
    match case.proper {
        Proper::Answered if answer.is_empty() => Ok(()),
        Proper::Answered => status(&answer).and_then(|status| check(status, &answer)),
        Proper::Problem(low, high) => {
            let status = status(&answer)?;
            check(status, &answer)?;
            if (low..=high).contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
        }
    }
}

fn connect(limit: Duration) -> Result<TcpStream, String> {
    let address = SocketAddr::from((Wire::Service.appliance(), API));
    let end = Instant::now() + limit;
    loop {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_write_timeout(Some(SOON)).unwrap();
                return Ok(stream);
            }
            // Every slot is taken, or on its way back.
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// All bytes until the server closes, which it must.
fn hear(mut stream: TcpStream, limit: Duration) -> Result<Vec<u8>, String> {
    let end = Instant::now() + limit;
    let (mut heard, mut chunk) = (Vec::new(), [0; 65536]);
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(heard),
            Ok(count) => heard.extend(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("still open after {limit:?}, {} bytes heard", heard.len()));
            }
            // A reset behind the answer is how a server ends that will not hear the rest.
            Err(_) => return Ok(heard),
        }
    }
}

fn status(answer: &[u8]) -> Result<u16, String> {
    let text = String::from_utf8_lossy(answer);
    let code =
        text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    code.ok_or_else(|| format!("no status in {:?}", text.lines().next().unwrap_or_default()))
}

/// An error is a problem document (RFC 9457) whose status is that of the response.
fn check(status: u16, answer: &[u8]) -> Result<(), String> {
    if status < 400 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no end of the head")?;
    if !head.to_ascii_lowercase().contains("content-type: application/problem+json") {
        return Err(format!("an error that is no problem: {head}"));
    }
    let body: serde_json::Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
    let is_whole = body["type"].is_string() && body["title"].is_string() && body["status"] == status;
    if is_whole { Ok(()) } else { Err(format!("half a problem: {body}")) }
}

fn get_health(limit: Duration) -> Result<(), String> {
    let mut stream = connect(limit)?;
    let request = b"GET /healthz HTTP/1.1\r\nhost: appliance\r\nconnection: close\r\n\r\n";
    stream.write_all(request).map_err(|error| error.to_string())?;
    match status(&hear(stream, limit)?)? {
        200 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

/// Whether the API answers within `limit`, and how long that took.
pub(crate) fn healthy(limit: Duration) -> Result<Duration, String> {
    let start = Instant::now();
    get_health(limit).map(|()| start.elapsed())
}

/// A client that asks again and again, and is always answered.
struct Honest {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    thread: JoinHandle<Result<Duration, String>>,
}

impl Honest {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU32::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                get_health(SOON)?;
                longest = longest.max(start.elapsed());
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(longest)
        });
        Self { stop, rounds, thread }
    }

    fn finish(self) {
        let end = Instant::now() + SOON;
        while self.rounds.load(Ordering::Relaxed) <= 5 && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().unwrap().unwrap();
        let rounds = self.rounds.load(Ordering::Relaxed);
        println!("honest client: {rounds} requests, the longest took {longest:?}");
        assert!(rounds > 5 && longest < SOON, "{rounds} {longest:?}");
    }
}

fn case(what: impl Into<String>, bytes: impl Into<Vec<u8>>, proper: Proper) -> Case {
    Case { what: what.into(), bytes: bytes.into(), proper }
}

fn head(line: &str, fields: &str) -> Vec<u8> {
    format!("{line}\r\nhost: appliance\r\n{fields}\r\n").into_bytes()
}

/// Heads that break the grammar, the limits or the house's rules.
fn heads() -> Vec<Case> {
    let refused = Proper::Problem(400, 505);
    let get = "GET /v1 HTTP/1.1";
    let mut fields = String::new();
    for n in 0..1000 {
        let _ = write!(fields, "x-{n}: y\r\n");
    }
    let mut cases = vec![
        case(
            "64 KiB of one field",
            head(get, &format!("x: {}\r\n", "y".repeat(65_536))),
            Proper::Problem(431, 431),
        ),
        case("1,000 fields", head(get, &fields), Proper::Problem(431, 431)),
        case(
            "a target of 5,000 bytes",
            head(&format!("GET /{} HTTP/1.1", "a".repeat(5000)), ""),
            Proper::Problem(414, 414),
        ),
        case("a first line without end", vec![b'G'; 100_000], refused),
        case("bare LF", b"GET /v1 HTTP/1.1\nhost: a\n\n".to_vec(), refused),
        case("a bare CR in a value", head(get, "x: a\rb: c\r\n"), refused),
        case("NUL in a value", head(get, "x: a\0b\r\n"), refused),
        case("NUL in a name", head(get, "x\0y: a\r\n"), refused),
        case("a folded line", head(get, "x: a\r\n b\r\n"), refused),
        case("a space before the colon", head(get, "x : a\r\n"), refused),
        case("a field without a colon", head(get, "nonsense\r\n"), refused),
        case("no host", b"GET /v1 HTTP/1.1\r\n\r\n".to_vec(), refused),
        case("two hosts", head(get, "host: other\r\n"), refused),
        case("another host's absolute target", head("GET http://other.example/v1 HTTP/1.1", ""), refused),
        case("HTTP/0.9", b"GET /v1\r\n\r\n".to_vec(), refused),
        case("HTTP/1.0", head("GET /v1 HTTP/1.0", ""), refused),
        case("HTTP/2 at once", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), refused),
        case("HTTP/9.9", head("GET /v1 HTTP/9.9", ""), refused),
        case(
            "an upgrade to h2c",
            head(get, "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAA\r\n"),
            Proper::Answered,
        ),
        case("CONNECT", head("CONNECT other.example:443 HTTP/1.1", ""), refused),
        case("a method of nobody", head("BREW /v1 HTTP/1.1", ""), refused),
        case(
            "an expectation of nobody",
            head("POST /v1/instances HTTP/1.1", "expect: 200-maybe\r\ncontent-length: 2\r\n"),
            Proper::Problem(417, 417),
        ),
        case("TLS at once", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(40), refused),
        case("iSCSI at once", [&[0x43, 0x87][..], &[0; 46]].concat(), Proper::Answered),
        case("half a head", b"GET /v1 HTTP/1.1\r\nhost: a\r\nx".to_vec(), Proper::Answered),
        case("nothing", Vec::new(), Proper::Answered),
    ];
    for target in [
        "/%00",
        "/v1/%2e%2e/v1",
        "/v1/../v1",
        "/v1/%c0%af",
        "//v1",
        "/v1/instances/%0d%0a",
        "/v1?a=%zz",
        "v1",
        "*",
        "/v1 /v2",
        "/\u{7f}",
        "/v1/instances/caf\u{e9}",
        "/v1#a",
    ] {
        cases.push(case(format!("target {target:?}"), head(&format!("GET {target} HTTP/1.1"), ""), refused));
    }
    cases
}

/// Lengths of bodies that are not clear.
fn lengths() -> Vec<Case> {
    let refused = Proper::Problem(400, 501);
    let post = "POST /v1/instances HTTP/1.1";
    let fields = [
        ("a length and a coding", "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        ("a coding and a length", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
        ("two lengths", "content-length: 5\r\ncontent-length: 6\r\n"),
        ("the same length twice", "content-length: 5\r\ncontent-length: 5\r\n"),
        ("a length with a sign", "content-length: +5\r\n"),
        ("a negative length", "content-length: -5\r\n"),
        ("a list of lengths", "content-length: 5,5\r\n"),
        ("a length in hexadecimal", "content-length: 0x5\r\n"),
        ("a length of 20 digits", "content-length: 99999999999999999999\r\n"),
        ("a length of 2^64", "content-length: 18446744073709551616\r\n"),
        ("a length of nothing", "content-length: \r\n"),
        ("a length of 10 MiB", "content-length: 10485760\r\n"),
        ("chunks", "transfer-encoding: chunked\r\n"),
        ("chunks and no coding", "transfer-encoding: chunked, identity\r\n"),
        ("a coding of nobody", "transfer-encoding: xchunked\r\n"),
        ("a coding behind a tab", "transfer-encoding:\tchunked\r\n"),
    ];
    let bodies = fields.map(|(what, fields)| {
        let bytes = [head(post, fields), b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n".to_vec()].concat();
        case(what, bytes, refused)
    });
    bodies
        .into_iter()
        .chain([case("a body cut short", head(post, "content-length: 50\r\n"), Proper::Answered)])
        .collect()
}

/// Bodies that are no JSON, or not the JSON that is asked for.
fn bodies() -> Vec<Case> {
    let valid = |more: &str| format!(r#"{{"id":"a","image":"b"{more}}}"#).into_bytes();
    let all: Vec<(&str, Vec<u8>)> = vec![
        ("no body", Vec::new()),
        ("10,000 brackets", b"[".repeat(10_000)),
        ("10,000 braces", b"{\"a\":".repeat(10_000)),
        ("1e400", valid(r#","deadline_ms":1e400"#)),
        ("minus zero", valid(r#","deadline_ms":-0"#)),
        ("2^64", valid(r#","deadline_ms":18446744073709551616"#)),
        ("a fraction", valid(r#","deadline_ms":0.5"#)),
        ("half a surrogate pair", br#"{"id":"\uD800","image":"b"}"#.to_vec()),
        ("a raw NUL", b"{\"id\":\"a\0\",\"image\":\"b\"}".to_vec()),
        ("a raw newline in text", b"{\"id\":\"a\n\",\"image\":\"b\"}".to_vec()),
        ("a byte order mark", [b"\xef\xbb\xbf".to_vec(), valid("")].concat()),
        ("a key twice", valid(r#","id":"c""#)),
        ("a key nobody knows", valid(r#","colour":"blue""#)),
        ("text of 60,000 bytes", format!(r#"{{"id":"{}","image":"b"}}"#, "a".repeat(60_000)).into_bytes()),
        ("bytes behind the end", [valid(""), b"{}".to_vec()].concat()),
        ("UTF-8 that is too long", b"{\"id\":\"\xc0\x80\",\"image\":\"b\"}".to_vec()),
        ("bytes that are no UTF-8", vec![0xff; 1000]),
        ("a list", b"[1,2,3]".to_vec()),
        ("a number", b"7".to_vec()),
        ("null", b"null".to_vec()),
        ("comments", b"{/*a*/\"id\":\"a\",\"image\":\"b\"}".to_vec()),
        ("a comma too many", br#"{"id":"a","image":"b",}"#.to_vec()),
        ("numbers where text belongs", br#"{"id":1,"image":2}"#.to_vec()),
        ("names with paths in them", br#"{"id":"../../etc","image":"/etc/passwd"}"#.to_vec()),
        ("names with a NUL", br#"{"id":"a\u0000b","image":"b"}"#.to_vec()),
    ];
    let post = |(what, body): (&str, Vec<u8>)| {
        let fields = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        case(what, [head("POST /v1/instances HTTP/1.1", &fields), body].concat(), Proper::Problem(400, 422))
    };
    all.into_iter().map(post).collect()
}

/// 1,000 requests without waiting for an answer: some are answered, all in order, and then it ends.
fn many_at_once() -> Result<(), String> {
    let mut stream = connect(SOON)?;
    let request = b"GET /healthz HTTP/1.1\r\nhost: appliance\r\n\r\n";
    let _ = stream.write_all(&request.repeat(1000));
    let _ = stream.shutdown(Shutdown::Write);
    let answer = hear(stream, SOON)?;
    let text = String::from_utf8_lossy(&answer);
    let answered = text.matches("HTTP/1.1 200").count();
    println!("{answered} of 1,000 pipelined requests were answered");
    if answered > 0 || answer.is_empty() { Ok(()) } else { Err(text.into_owned()) }
}
