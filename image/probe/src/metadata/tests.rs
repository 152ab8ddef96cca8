//! A metadata service at the other end of one of two wires.

use super::*;
use network_nic::testing::Wire;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// What a service says to a question.
type Service = Rc<dyn Fn(&str) -> String>;

/// A service on the second of two NICs, and what is got from it, with the questions that it was asked.
fn fetch_from(service: Service) -> (Result<Vec<u8>, String>, Vec<String>, u64) {
    let [one, silent] = Wire::pair([1, 11]);
    let [two, end] = Wire::pair([2, 12]);
    let cidr = Cidr { address: ADDRESS, prefix: PREFIX };
    let addressing = Addressing::Static { cidr, gateway: None };
    let settings = Settings { side: Side::Link, addressing, foreign: None, seed: 5 };
    let mut attachment = Attachment::new(&settings, end, Instant::ZERO);
    let mut executor = Executor::new(1);
    let mut stream = attachment.stack().stream(4096, 4096);
    let asked = Rc::new(RefCell::new(Vec::new()));
    let questions = asked.clone();
    executor.add("service", async move {
        loop {
            stream.accept(80).await;
            let mut text = String::new();
            let mut bytes = [0; 1000];
            while !text.ends_with("\r\n\r\n") {
                match stream.read(&mut bytes).await {
                    Ok(count) if count > 0 => text.push_str(core::str::from_utf8(&bytes[..count]).unwrap()),
                    _ => break,
                }
            }
            let answer = service(&text);
            questions.borrow_mut().push(text);
            let _ = stream.write_all(answer.as_bytes()).await;
            stream.finish().await;
        }
    });
    let time = Cell::new(1_000);
    let now = || Instant::from_micros(time.get());
    let mut idle = |until: Instant| {
        attachment.receive(now());
        executor.run_ready(now());
        attachment.transmit(now());
        time.set((time.get() + 1_000).min(until.as_micros().max(time.get() + 1)));
    };
    let (nics, result) = fetch(vec![one, two], ADDRESS, 0x1234, &now, &mut idle);
    assert_eq!(nics.iter().map(Nic::mac).collect::<Vec<_>>(), [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]]);
    drop(silent);
    (result, asked.take(), time.get())
}

fn good(body: &str) -> String {
    format!("HTTP/1.1 200 \r\nServer: Firecracker API\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const REFUSED: &str = "HTTP/1.1 405 \r\nAllow: GET\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_service_of_version_2_is_shown_the_token_that_it_gave() {
    let service = |question: &str| match question {
        _ if question.starts_with("PUT /latest/api/token ") => {
            assert!(question.contains("X-metadata-token-ttl-seconds: 60\r\n"));
            good("abcd==")
        }
        _ if question.contains("\r\nX-metadata-token: abcd==\r\n") => good(&"a=b\n".repeat(10_000)),
        _ => "HTTP/1.1 401 \r\nContent-Length: 0\r\n\r\n".to_string(),
    };
    let (result, asked, _) = fetch_from(Rc::new(service));
    assert_eq!(result, Ok("a=b\n".repeat(10_000).into_bytes()));
    assert_eq!(asked.len(), 2);
}

#[test]
fn one_of_version_1_knows_no_token() {
    let service = |question: &str| match question {
        _ if question.starts_with("PUT ") => REFUSED.to_string(),
        _ => {
            assert!(
                question.starts_with("GET /latest/user-data HTTP/1.1\r\n") && !question.contains("token")
            );
            good("host.address=dhcp")
        }
    };
    assert_eq!(fetch_from(Rc::new(service)).0, Ok(b"host.address=dhcp".to_vec()));
}

#[test]
fn what_is_not_there_yet_is_asked_for_again() {
    let times = Cell::new(0);
    let service = move |question: &str| {
        times.set(times.get() + u32::from(question.starts_with("GET")));
        match question {
            _ if question.starts_with("PUT ") => good("t"),
            _ if times.get() < 3 => "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n".to_string(),
            _ => good("a=b"),
        }
    };
    let (result, asked, time) = fetch_from(Rc::new(service));
    assert_eq!((result, asked.len()), (Ok(b"a=b".to_vec()), 6));
    assert!(time > 1_000_000);
}

#[test]
fn it_ends_when_nobody_has_anything_or_says_nonsense() {
    let (result, _, time) = fetch_from(Rc::new(|_| "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n".to_string()));
    let error = result.unwrap_err();
    assert!(
        error.contains("nobody at 169.254.169.254 had a document; there are 02:00:00:00:00:01"),
        "{error}"
    );
    assert!((15_000_000..16_000_000).contains(&time), "{time}");
    let (result, ..) = fetch_from(Rc::new(|_| "SSH-2.0-OpenSSH\r\n\r\n".to_string()));
    assert_eq!(result, Err("169.254.169.254: what it answers is not HTTP".to_string()));
    let long = |_: &str| "HTTP/1.1 200 \r\nContent-Length: 65537\r\n\r\n".to_string();
    assert_eq!(fetch_from(Rc::new(long)).0, Err("169.254.169.254: longer than 64 KiB".to_string()));
}
