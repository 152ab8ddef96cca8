//! What the server makes of what clients send.

use super::*;
use std::string::String;

const T0: Duration = Duration::ZERO;

/// A server and a peer that reads all it writes.
struct Wire {
    server: Server,
    now: Duration,
    written: Vec<u8>,
}

impl Wire {
    fn new() -> Self {
        Self { server: Server::new(Limits::SERVER, T0), now: T0, written: Vec::new() }
    }

    /// Send `bytes` in pieces of `step`; how many the server took.
    fn send(&mut self, bytes: &[u8], step: usize) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            let space = self.server.space();
            let count = space.len().min(step).min(bytes.len() - sent);
            if count == 0 {
                break;
            }
            space[..count].copy_from_slice(&bytes[sent..sent + count]);
            sent += count;
            self.server.received(self.now, count);
            self.drain();
        }
        sent
    }

    fn drain(&mut self) {
        loop {
            let bytes = self.server.transmit();
            let count = bytes.len().min(1000);
            if count == 0 {
                return;
            }
            self.written.extend_from_slice(&bytes[..count]);
            self.server.transmitted(self.now, count);
        }
    }

    fn answer(&mut self, response: &Response) {
        self.server.respond(self.now, response);
        self.drain();
    }

    fn output(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.written)).unwrap()
    }

    /// The status of the only response so far.
    fn status(&mut self) -> u16 {
        self.output().strip_prefix("HTTP/1.1 ").and_then(|text| text[..3].parse().ok()).unwrap_or(0)
    }
}

/// The status that `bytes` are refused with.
fn refused(bytes: &[u8]) -> u16 {
    let mut wire = Wire::new();
    wire.send(bytes, 700);
    assert!(wire.server.request().is_none(), "{:?} became a request", String::from_utf8_lossy(bytes));
    if wire.server.is_finished() {
        assert!(wire.server.space().is_empty());
    }
    wire.status()
}

const GET: &[u8] = b"GET /v1?a=b HTTP/1.1\r\nHost: corbel\r\n\r\n";

#[test]
fn a_request_is_the_same_however_its_bytes_arrive() {
    for step in [1, 2, 3, 7, 1000] {
        let mut wire = Wire::new();
        let bytes = b"\r\nPOST /v1/instances HTTP/1.1\r\nhost: 10.0.0.1:80\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(wire.send(bytes, step), bytes.len());
        let request = wire.server.request().expect("complete");
        assert_eq!((request.method, request.path, request.query), (Method::Post, "/v1/instances", None));
        assert_eq!(request.body, b"hello");
        assert_eq!(request.media_type().as_deref(), Some("application/json"));
        assert_eq!(request.field("HOST"), Some("10.0.0.1:80"));
        assert_eq!(wire.written, b"");
    }
}

#[test]
fn a_connection_carries_one_request_after_another() {
    let mut wire = Wire::new();
    for round in 0..3 {
        assert_eq!(wire.send(GET, 9), GET.len(), "round {round}");
        assert_eq!(wire.server.request().unwrap().query, Some("a=b"));
        wire.answer(&Response::json(200, b"{}".to_vec()));
        assert_eq!(
            wire.output(),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n{}"
        );
    }
    assert!(!wire.server.is_finished());
    wire.server.end_of_input();
    assert!(wire.server.is_finished());
}

#[test]
fn a_head_request_is_answered_without_the_body() {
    let mut wire = Wire::new();
    wire.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 100);
    wire.answer(&Response::text(200, "four"));
    let output = wire.output();
    assert!(output.contains("Content-Length: 4\r\n") && output.ends_with("\r\n\r\n"), "{output}");
}

#[test]
fn connection_close_is_kept_and_told() {
    let mut wire = Wire::new();
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", 100);
    wire.answer(&Response::no_content());
    let output = wire.output();
    assert!(output.starts_with("HTTP/1.1 204 ") && output.contains("\r\nConnection: close\r\n"), "{output}");
    assert!(!output.contains("Content-Length"));
    assert!(wire.server.is_finished());
}

#[test]
fn one_request_may_wait_in_line_and_no_more() {
    let mut wire = Wire::new();
    wire.send(&GET.repeat(2), usize::MAX);
    wire.answer(&Response::no_content());
    assert!(!wire.output().contains("close"));
    assert!(wire.server.request().is_some());
    wire.answer(&Response::no_content());
    assert!(!wire.output().contains("close"), "the line was empty again");

    let mut wire = Wire::new();
    wire.send(&GET.repeat(1000), usize::MAX);
    let mut answered = 0;
    while wire.server.request().is_some() {
        wire.answer(&Response::no_content());
        answered += 1;
    }
    assert_eq!(answered, 2);
    assert!(wire.output().contains("Connection: close"));
    assert!(wire.server.is_finished());
}

#[test]
fn a_body_is_invited_when_the_client_waits_for_it() {
    let mut wire = Wire::new();
    wire.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n", 100);
    assert_eq!(wire.output(), "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send(b"abc", 1);
    assert_eq!(wire.server.request().unwrap().body, b"abc");
    assert_eq!(refused(b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 3\r\n\r\n"), 417);
}

#[test]
fn the_largest_of_everything_is_accepted_and_one_more_is_not() {
    let line = |length: usize| {
        let path = "a".repeat(length - "GET / HTTP/1.1".len());
        format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
    };
    let mut wire = Wire::new();
    wire.send(&line(1024), 100);
    assert!(wire.server.request().is_some());
    assert_eq!(refused(&line(1025)), 414);
    assert_eq!(refused(&[b'G'; 70_000]), 414);

    let fields = |count: usize| {
        format!("GET / HTTP/1.1\r\n{}Host: a\r\n\r\n", "a: b\r\n".repeat(count - 1)).into_bytes()
    };
    let mut wire = Wire::new();
    wire.send(&fields(32), 100);
    assert!(wire.server.request().is_some());
    assert_eq!(refused(&fields(33)), 431);
    assert_eq!(refused(&fields(1000)), 431);

    let bytes = |count: usize| {
        let value = "v".repeat(count - "Host: a\r\nx: \r\n".len());
        format!("GET / HTTP/1.1\r\nHost: a\r\nx: {value}\r\n\r\n").into_bytes()
    };
    let mut wire = Wire::new();
    wire.send(&bytes(8192), 100);
    assert!(wire.server.request().is_some());
    assert_eq!(refused(&bytes(8193)), 431);
    assert_eq!(refused(&bytes(65_536)), 431);

    let body = |length: usize| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").into_bytes()
    };
    let mut wire = Wire::new();
    wire.send(&[body(65_536), vec![b'x'; 65_536]].concat(), 5000);
    assert_eq!(wire.server.request().unwrap().body.len(), 65_536);
    wire.answer(&Response::no_content());
    wire.send(GET, 5000);
    assert!(wire.server.request().is_some(), "and the connection goes on");
    assert_eq!(refused(&body(65_537)), 413);
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    let cases: &[(u16, &[u8])] = &[
        // Framing.
        (
            400,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            400,
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
        ),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nxxxxx"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\nxxxxx"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nxxxxx"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n"),
        (413, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\n"),
        (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
        (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n"),
        // Lines.
        (400, b"GET / HTTP/1.1\nHost: a\n\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\rx: y\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n folded\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nx\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nx: \xc0\x80\r\n\r\n"),
        (400, b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        // Target.
        (400, b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /a/./x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET //x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /?a=%41 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET http://other/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        // Host.
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        // Versions and methods.
        (505, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (501, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
        // Other protocols.
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ];
    for (status, bytes) in cases {
        assert_eq!(refused(bytes), *status, "{:?}", String::from_utf8_lossy(bytes));
    }
    let old = refused(b"GET /\r\n\r\n");
    assert!(matches!(old, 400 | 505), "HTTP/0.9 was answered with {old}");
}

#[test]
fn an_absolute_target_of_this_host_is_the_same_as_its_path() {
    let mut wire = Wire::new();
    wire.send(b"GET http://Corbel:80/v1?x=1 HTTP/1.1\r\nHost: corbel:80\r\n\r\n", 100);
    let request = wire.server.request().unwrap();
    assert_eq!((request.path, request.query), ("/v1", Some("x=1")));
}

#[test]
fn an_upgrade_is_ignored_and_the_request_is_answered_as_it_stands() {
    let mut wire = Wire::new();
    wire.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        100,
    );
    assert!(wire.server.request().is_some());
}

#[test]
fn a_refusal_is_a_problem_document_and_ends_the_connection() {
    let mut wire = Wire::new();
    wire.send(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1000);
    let output = wire.output();
    let (head, body) = output.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())) && head.ends_with("Connection: close")
    );
    assert!(body.starts_with(r#"{"type":"urn:corbel:problem:malformed-host","title":"#), "{body}");
    assert!(wire.server.is_finished() && wire.server.request().is_none());
    for refusal in Refusal::ALL {
        assert!(!refusal.document().contains('\\'), "the fixed text needs no escapes");
    }
}

#[test]
fn a_slow_head_and_a_slow_body_run_out_of_time() {
    let mut wire = Wire::new();
    for second in 0..10 {
        wire.now = Duration::from_secs(second);
        wire.send(&GET[second as usize..=second as usize], 1);
        assert_eq!(wire.server.expired(wire.now), Ok(()));
    }
    assert_eq!(wire.server.deadline(), Some(Duration::from_secs(10)));
    wire.now = Duration::from_secs(10);
    assert_eq!(wire.server.expired(wire.now), Ok(()));
    wire.drain();
    assert_eq!(wire.status(), 408);
    assert!(wire.server.is_finished());

    let mut wire = Wire::new();
    wire.now = Duration::from_secs(5);
    wire.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n", 1000);
    assert_eq!(wire.server.deadline(), Some(Duration::from_secs(35)));
    wire.now = Duration::from_secs(35);
    assert_eq!(wire.server.expired(wire.now), Ok(()));
    wire.drain();
    assert_eq!(wire.status(), 408);
}

#[test]
fn silence_between_requests_ends_the_connection_without_a_word() {
    let mut wire = Wire::new();
    assert_eq!(wire.server.deadline(), Some(Duration::from_secs(60)));
    assert_eq!(wire.server.expired(Duration::from_secs(59)), Ok(()));
    assert!(!wire.server.is_finished());
    assert_eq!(wire.server.expired(Duration::from_secs(60)), Ok(()));
    assert!(wire.server.is_finished() && wire.written.is_empty());
}

#[test]
fn a_peer_that_does_not_read_is_cut_off() {
    let mut wire = Wire::new();
    wire.send(GET, 1000);
    assert_eq!(wire.server.deadline(), None, "how long an answer takes is for those who make it");
    wire.server.respond(T0, &Response::text(200, "x"));
    assert_eq!(wire.server.expired(Duration::from_secs(30)), Err(Stalled));
}

#[test]
fn a_response_cannot_be_split_by_what_it_points_to() {
    let mut wire = Wire::new();
    wire.send(GET, 1000);
    let location = Some("/v1/x\r\nSet-Cookie: a".into());
    wire.answer(&Response {
        location,
        retry_after: Some(3),
        allow: Some("GET"),
        ..Response::json(405, vec![])
    });
    let output = wire.output();
    assert!(!output.contains("Cookie") && !output.contains("Location"));
    assert!(output.contains("\r\nRetry-After: 3\r\nAllow: GET\r\n"));
}

/// Not a replacement for the fuzz target, but enough to see a slice go wrong at once.
#[test]
fn noise_never_breaks_the_engine() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let good = b"PUT /v1/targets/a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbodyGET / HTTP/1.1\r\n";
    for _ in 0..20_000 {
        let mut bytes = good.repeat(2);
        for _ in 0..random() % 4 {
            let at = random() as usize % bytes.len();
            match random() % 3 {
                0 => bytes[at] = random() as u8,
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, b"\r\n :0"[random() as usize % 5]),
            }
        }
        let mut wire = Wire::new();
        for _ in 0..8 {
            wire.send(&bytes, 1 + random() as usize % 40);
            if wire.server.request().is_some() {
                wire.answer(&Response::no_content());
            }
            if wire.server.is_finished() {
                break;
            }
        }
    }
}
