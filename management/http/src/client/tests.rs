//! What the client makes of what servers send.

use super::*;
use crate::{Response, Server};
use core::time::Duration;

fn asked() -> Client {
    let mut client = Client::new(Limits::CLIENT, "agent");
    client.request(Method::Get, "/a1/inventory", None);
    let count = client.transmit().len();
    client.transmitted(count);
    client
}

fn feed(client: &mut Client, bytes: &[u8], step: usize) -> Result<(), Fatal> {
    for piece in bytes.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let space = client.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            client.received(count)?;
            rest = &rest[count..];
        }
    }
    Ok(())
}

#[test]
fn a_response_is_the_same_however_its_bytes_arrive() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for step in [1, 2, 5, 1000] {
        let mut client = asked();
        feed(&mut client, bytes, step).unwrap();
        let reply = Reply { status: 200, media_type: Some("application/json"), body: b"{}" };
        assert_eq!(client.reply(), Some(reply));
        assert!(client.is_reusable());
    }
}

#[test]
fn the_two_engines_understand_each_other() {
    let mut client = Client::new(Limits::CLIENT, "10.0.0.1:7000");
    let mut server = Server::new(Limits::SERVER, Duration::ZERO);
    for round in 0..3_u8 {
        client.request(Method::Post, "/a1/cmd", Some(&[b'0' + round; 9000]));
        while !client.transmit().is_empty() {
            let space = server.space();
            let count = space.len().min(client.transmit().len()).min(777);
            space[..count].copy_from_slice(&client.transmit()[..count]);
            client.transmitted(count);
            server.received(Duration::ZERO, count);
        }
        let request = server.request().unwrap();
        assert_eq!((request.path, request.body), ("/a1/cmd", &[b'0' + round; 9000][..]));
        server.respond(Duration::ZERO, &Response::json(200, vec![b'x'; 100_000]));
        while !server.transmit().is_empty() {
            let count = server.transmit().len().min(1333);
            let piece = server.transmit()[..count].to_vec();
            feed(&mut client, &piece, 1333).unwrap();
            server.transmitted(Duration::ZERO, count);
        }
        assert_eq!(client.reply().unwrap().body.len(), 100_000);
        assert!(client.is_reusable());
    }
}

#[test]
fn a_server_that_breaks_the_rules_is_dropped() {
    let cases: &[(Fatal, &[u8])] = &[
        (Fatal::Head, b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (Fatal::Head, b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n"),
        (Fatal::Head, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (Fatal::Head, b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        (Fatal::Head, b"\x00\x01"),
        (Fatal::Head, &[b'x'; 20_000]),
        (Fatal::Framing, b"HTTP/1.1 200 OK\r\n\r\nuntil the end"),
        (Fatal::Framing, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (Fatal::Framing, b"HTTP/1.1 200 OK\r\nContent-Length: 16777216\r\n\r\n"),
        (Fatal::Framing, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (Fatal::Unsolicited, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n"),
    ];
    for (fatal, bytes) in cases {
        assert_eq!(feed(&mut asked(), bytes, 1000), Err(*fatal), "{:?}", String::from_utf8_lossy(bytes));
    }
    let mut client = asked();
    feed(&mut client, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 1000).unwrap();
    assert_eq!(client.end_of_input(), Err(Fatal::Truncated));
}

#[test]
fn bytes_nobody_asked_for_are_noticed_between_requests() {
    let mut client = asked();
    feed(&mut client, b"HTTP/1.1 204 No Content\r\n\r\n", 1000).unwrap();
    assert_eq!(client.reply().unwrap().status, 204);
    assert_eq!(feed(&mut client, b"x", 1), Err(Fatal::Unsolicited));
}

#[test]
fn a_connection_that_the_server_closes_is_not_used_again() {
    let mut client = asked();
    feed(&mut client, b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 1000).unwrap();
    assert_eq!(client.reply().unwrap().status, 503);
    assert!(!client.is_reusable());
}

#[test]
fn a_body_takes_memory_as_it_comes_and_not_as_it_is_announced() {
    let mut client = asked();
    let most = Limits::CLIENT.body;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {most}\r\n\r\n");
    feed(&mut client, head.as_bytes(), 1000).unwrap();
    assert!(client.buffer.capacity() <= 2 * Limits::CLIENT.head(), "{}", client.buffer.capacity());
    let mut sent = 0;
    while sent < most {
        let piece = vec![b'x'; 5000.min(most - sent)];
        feed(&mut client, &piece, 3001).unwrap();
        sent += piece.len();
        let (took, came) = (client.buffer.capacity(), head.len() + sent);
        assert!(took <= Limits::CLIENT.head().max(came + came / 2 + 1), "{took} for {came}");
    }
    assert_eq!(client.reply().unwrap().body, vec![b'x'; most]);
    let more = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", most + 1);
    assert_eq!(feed(&mut asked(), more.as_bytes(), 1000), Err(Fatal::Framing));
}
