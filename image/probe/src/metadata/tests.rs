//! A metadata service at the other end of one of two wires.

use super::*;
use network_nic::testing::Wire;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// What a service says to a question.
type Service = Rc<dyn Fn(&str) -> String>;

const ONE: Mac = [2, 0, 0, 0, 0, 1];
const TWO: Mac = [2, 0, 0, 0, 0, 2];

/// The other end of a wire, where the service is.
struct End {
    attachment: Attachment<Wire>,
    executor: Executor,
    asked: Rc<RefCell<Vec<String>>>,
}

impl End {
    fn new(wire: Wire, service: Service) -> Self {
        let cidr = Cidr { address: ADDRESS, prefix: PREFIX };
        let addressing = Addressing::Static { cidr, gateway: None };
        let settings = Settings { side: Side::Link, addressing, foreign: None, seed: 5 };
        let attachment = Attachment::new(&settings, wire, Instant::ZERO);
        let mut executor = Executor::new(1);
        let stream = attachment.stack().stream(4096, 4096);
        let asked = Rc::new(RefCell::new(Vec::new()));
        executor.add("service", serve(stream, service, asked.clone()));
        Self { attachment, executor, asked }
    }

    fn turn(&mut self, now: Instant) {
        self.attachment.receive(now);
        self.executor.run_ready(now);
        self.attachment.transmit(now);
    }
}

async fn serve(mut stream: Stream, service: Service, questions: Rc<RefCell<Vec<String>>>) {
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
}

/// What is got by two NICs, at the other ends of which are these, where there are any; what each was asked; and when it was over.
fn fetch_by(
    services: [Option<Service>; 2],
    is_asked: &dyn Fn(Mac) -> bool,
) -> (Result<Vec<u8>, String>, [Vec<String>; 2], u64) {
    let [one, first] = Wire::pair([1, 11]);
    let [two, second] = Wire::pair([2, 12]);
    let [one_service, two_service] = services;
    let silent: Service = Rc::new(|_| String::new());
    let has = [one_service.is_some(), two_service.is_some()];
    let mut ends = [(first, one_service), (second, two_service)]
        .map(|(wire, service)| End::new(wire, service.unwrap_or_else(|| silent.clone())));
    let time = Cell::new(1_000);
    let now = || Instant::from_micros(time.get());
    let mut rest = |until: Option<Instant>| {
        let Some(until) = until else { return };
        for (end, _) in ends.iter_mut().zip(has).filter(|(_, has)| *has) {
            end.turn(now());
        }
        time.set((time.get() + 1_000).min(until.as_micros().max(time.get() + 1)));
    };
    let (nics, result) = fetch(vec![one, two], ADDRESS, is_asked, 0x1234, &now, &mut rest);
    assert_eq!(nics.iter().map(Nic::mac).collect::<Vec<_>>(), [ONE, TWO]);
    (result, ends.map(|end| end.asked.take()), time.get())
}

/// A service on the second of two NICs, and what is got from it, with the questions that it was asked.
fn fetch_from(service: Service) -> (Result<Vec<u8>, String>, Vec<String>, u64) {
    let (result, [_, asked], time) = fetch_by([None, Some(service)], &|_| true);
    (result, asked, time)
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
    // Where there is another NIC something may still answer there.
    let (result, asked, time) = fetch_from(Rc::new(nonsense));
    let error = result.unwrap_err();
    assert!(
        error.ends_with(", 02:00:00:00:00:02; by 02:00:00:00:00:02: what it answers is not HTTP"),
        "{error}"
    );
    assert!((15_000_000..16_000_000).contains(&time) && asked.len() == 1, "{time}");
    let long = |_: &str| "HTTP/1.1 200 \r\nContent-Length: 65537\r\n\r\n".to_string();
    let (result, _, time) = fetch_by([Some(Rc::new(nonsense)), Some(Rc::new(long))], &|_| true);
    let error = result.unwrap_err();
    assert!(error.contains("by 02:00:00:00:00:01: what it answers is not HTTP"), "{error}");
    assert!(error.contains("by 02:00:00:00:00:02: longer than 64 KiB"), "{error}");
    assert!(time < 1_000_000, "there is nobody left: {time}");
    let (result, _, time) = fetch_by([None, Some(Rc::new(nonsense))], &|mac| mac == TWO);
    let error = result.unwrap_err();
    assert!(error.contains("on the NICs that were asked; there are 02:00:00:00:00:02; by"), "{error}");
    assert!(time < 1_000_000, "{time}");
}

fn nonsense(_: &str) -> String {
    "SSH-2.0-OpenSSH\r\n\r\n".to_string()
}

/// A service of version 1 with this document.
fn of(document: &'static str) -> Service {
    Rc::new(move |question| if question.starts_with("PUT ") { REFUSED.to_string() } else { good(document) })
}

#[test]
fn nonsense_on_one_nic_does_not_hide_the_service_on_the_other() {
    for late in [0, 3] {
        // It is there at once, or after some time.
        let times = Cell::new(0);
        let service = move |question: &str| {
            times.set(times.get() + 1);
            match question {
                _ if question.starts_with("PUT ") => REFUSED.to_string(),
                _ if times.get() <= late * 2 => "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n".to_string(),
                _ => good("a=b"),
            }
        };
        let (result, asked, _) = fetch_by([Some(Rc::new(nonsense)), Some(Rc::new(service))], &|_| true);
        assert_eq!((result, asked[0].len()), (Ok(b"a=b".to_vec()), 1));
    }
}

#[test]
fn a_nic_that_is_not_one_to_ask_on_is_not_asked_whatever_it_has() {
    let services = || [Some(of("evil=yes")), Some(of("a=b"))];
    let (result, asked, _) = fetch_by(services(), &|mac| mac == TWO);
    assert_eq!((result, asked[0].len(), asked[1].len()), (Ok(b"a=b".to_vec()), 0, 2));
    let (result, asked, time) = fetch_by(services(), &|_| false);
    let error = result.unwrap_err();
    assert!(error.contains("none is one to ask 169.254.169.254 on; there are 02:00"), "{error}");
    assert!(asked.iter().all(Vec::is_empty) && time < 1_000_000);
}
