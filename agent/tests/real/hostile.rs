//! What the agent makes of requests that are not what they should be. Everybody else goes on.

use crate::world::World;
use agent_protocol::{State, path};
use management_http::Method;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn nothing_that_crosses_the_wire_is_a_path_or_a_command_line() {
    let world = World::new("names");
    world.create("a", "none");
    let names = [
        "../../etc/passwd",
        "/etc/passwd",
        "a;reboot",
        "$(reboot)",
        "`reboot`",
        "-S",
        "a\\u0000",
        "a b",
        "",
        "A",
        "a\\r\\nb",
        "..\\\\x",
    ];
    for name in names {
        for body in [
            format!(r#"{{"proto":1,"op_id":"o","instance":"{name}","action":{{"verb":"terminate"}}}}"#),
            format!(r#"{{"proto":1,"op_id":"{name}","instance":"a","action":{{"verb":"terminate"}}}}"#),
            format!(
                r#"{{"proto":1,"op_id":"o","instance":"b","action":{{"verb":"create","image":"{name}","start":true}}}}"#
            ),
        ] {
            let (status, answer) = world.request(Method::Post, path::COMMAND, Some(body.as_bytes()));
            assert_eq!(status, 400, "{body}: {}", String::from_utf8_lossy(&answer));
        }
    }
    assert_eq!(world.state("a"), State::Running);
    assert_eq!(world.inventory().instances.len(), 1);
}

#[test]
fn malformed_bodies_paths_and_methods_have_their_own_answers() {
    let world = World::new("malformed");
    let terminate = r#"{"proto":1,"op_id":"o","instance":"a","action":{"verb":"terminate"}}"#;
    for body in [
        "".to_owned(),
        "[".repeat(10_000),
        "null".to_owned(),
        format!("{terminate} x"),
        format!("\u{feff}{terminate}"),
        terminate.replace("\"o\"", "\"\\uD800\""),
        terminate.replace("1,", "1e400,"),
        terminate.replace("1,", "18446744073709551616,"),
        terminate.replace("{\"proto\"", "{\"proto\":1,\"proto\""),
        terminate.replace("\"terminate\"", "\"terminate\",\"force\":true"),
        format!("{{\"pad\":\"{}\"}}", "x".repeat(5000)),
    ] {
        let (status, _) = world.request(Method::Post, path::COMMAND, Some(body.as_bytes()));
        assert_eq!(status, 400, "{}", &body[..body.len().min(80)]);
    }
    assert_eq!(world.request(Method::Post, path::COMMAND, Some(&[b' '; 65_537])).0, 413);
    assert_eq!(world.request(Method::Get, path::COMMAND, None).0, 405);
    assert_eq!(world.request(Method::Post, path::INVENTORY, None).0, 405);
    assert_eq!(world.request(Method::Get, "/", None).0, 404);
    assert_eq!(world.request(Method::Get, "/a1/cmd/../x", None).0, 400);
    assert_eq!(world.request(Method::Post, path::HELLO, None).0, 415);
    let future = br#"{"proto_min":2,"proto_max":9,"appliance_boot":"00000000-0000-0000-0000-000000000001"}"#;
    assert_eq!(world.request(Method::Post, path::HELLO, Some(future)).0, 400);
}

#[test]
fn silent_and_half_spoken_connections_leave_room_for_others_and_too_many_are_told() {
    let world = World::new("crowd");
    let mut held: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(world.address).unwrap()).collect();
    for stream in &mut held {
        stream.write_all(b"GET /a1/inv").unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut one_more = TcpStream::connect(world.address).unwrap();
    one_more.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut text = String::new();
    one_more.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("Retry-After"), "{text}");
    drop(held);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.request(Method::Get, path::INVENTORY, None).0, 200);
}
