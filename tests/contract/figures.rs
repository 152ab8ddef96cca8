//! Figures of the command path, for the benchmark: nothing here fails because a number is small. The appliance is a process,
//! QEMU the hypervisor; the times of native calls are those of QEMU's own trace.

use crate::backend::qemu::Qemu;
use crate::parent::{LIMIT, Parent};
use crate::states::{create, done};
use agent_protocol::{Action, Verb};
use image_launch::net::{API, Net, Wire};
use image_launch::process::{self, Process};
use image_launch::scratch::Scratch;
use image_launch::wait;
use management_http::{Client, Limits, Method};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long rates are measured.
const SPAN: Duration = Duration::from_secs(3);
const INSTANCES: usize = 1000;
const COMMANDS: usize = 200;
const EVENTS: u64 = 10_000;

/// Keys and certificates: an authority, the appliance's, and a VM service's.
const CERTIFICATES: &str = "set -e
new() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out $1-key.pem; }
new ca; new api; new vm
openssl req -x509 -new -key ca-key.pem -out ca.pem -days 2 -subj /CN=authority
sign() { openssl req -new -key $1-key.pem -subj /CN=$1 | openssl x509 -req -CA ca.pem -CAkey ca-key.pem \\
  -CAcreateserial -days 2 -out $1.pem -extfile $1.ext 2> /dev/null; }
echo \"subjectAltName=IP:$1\nextendedKeyUsage=serverAuth\" > api.ext
echo 'subjectAltName=URI:spiffe://example.org/svc/vm\nextendedKeyUsage=clientAuth' > vm.ext
sign api; sign vm
der() { base64 -w0; }
echo api.tls.anchors=$(openssl x509 -in ca.pem -outform der | der)
echo api.tls.certificate=$(openssl x509 -in api.pem -outform der | der)
echo api.tls.key=$(openssl pkcs8 -in api-key.pem -topk8 -nocrypt -outform der | der)
echo api.tls.dates=if-known
echo api.trust-domain=example.org
";

#[test]
#[ignore = "figures for tests/bench/README.md: run it alone, in release"]
fn figures_of_the_command_path() {
    let pki = Scratch::new().unwrap();
    let config = certificates(pki.path());
    let began = Instant::now();
    let mut parent = Parent::with(&Qemu, None, config);
    let pid = parent.stage.appliance.process().pid();
    let net = &parent.stage.net;
    let mut way = Way::new(net, pki.path());
    while way.ask(Method::Get, "/v1/instances", None).0 != 200 {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "| start of the whole host to the first answer about its instances | {:.0} ms |",
        ms(began.elapsed())
    );
    println!(
        "| TLS 1.3 handshakes with client certificate, one client | {:.0} /s |",
        handshakes(net, pki.path())
    );
    let (requests, span) = count(|| way.ask(Method::Get, "/v1", None));
    println!(
        "| requests on one TLS connection (`GET /v1`) | {:.0} /s |",
        requests as f64 / span.as_secs_f64()
    );
    native(&parent, &mut way);
    memory(&parent, pid, pki.path());
    events(&parent);
    many(&parent, pki.path());
}

/// Makes them; what the appliance is told.
fn certificates(folder: &Path) -> Vec<(String, String)> {
    let mut sh = process::command("bash");
    sh.args(["-O", "xpg_echo", "-c", CERTIFICATES, "sh", &Wire::Service.appliance().to_string()])
        .current_dir(folder);
    let text = process::check(sh, LIMIT).unwrap();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// One TLS connection to the API.
struct Way {
    stream: UnixStream,
    client: Client,
    _relay: Process,
}

impl Way {
    fn new(net: &Net, pki: &Path) -> Self {
        let socket = pki.join(format!("api-{}", fs::read_dir(pki).unwrap().count()));
        let mut socat = net.command("socat");
        socat.arg(format!("UNIX-LISTEN:{}", socket.display())).arg(format!(
            "OPENSSL:{}:{API},cert={pki}/vm.pem,key={pki}/vm-key.pem,cafile={pki}/ca.pem,nodelay",
            Wire::Service.appliance(),
            pki = pki.display()
        ));
        let relay = Process::start("socat", socat, &pki.join("socat.log")).unwrap();
        let connect = || Ok(UnixStream::connect(&socket).ok());
        let stream = wait::until("the way to the API", LIMIT, connect).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self { stream, client: Client::new(Limits::CLIENT, "appliance"), _relay: relay }
    }

    fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(|body| body.to_string());
        self.client.request(method, path, body.as_ref().map(|text| text.as_bytes()));
        self.stream.write_all(self.client.transmit()).unwrap();
        let count = self.client.transmit().len();
        self.client.transmitted(count);
        loop {
            let count = self.stream.read(self.client.space()).unwrap();
            assert!(count > 0, "the API closed the connection");
            self.client.received(count).unwrap();
            if let Some(reply) = self.client.reply() {
                let answer = (reply.status, serde_json::from_slice(reply.body).unwrap_or_default());
                return answer;
            }
        }
    }
}

fn handshakes(net: &Net, pki: &Path) -> f64 {
    let mut openssl = net.command("openssl");
    let at = |name: &str| pki.join(name).display().to_string();
    openssl.args(["s_time", "-new", "-time", &SPAN.as_secs().to_string()]);
    openssl.args(["-connect", &format!("{}:{API}", Wire::Service.appliance())]);
    openssl.args(["-cert", &at("vm.pem"), "-key", &at("vm-key.pem"), "-CAfile", &at("ca.pem")]);
    let text = process::run(openssl, LIMIT).unwrap().text();
    // `70 connections in 3 real seconds, 0 bytes read per connection`
    let line = text.lines().find(|line| line.contains("real seconds")).unwrap_or_else(|| panic!("{text}"));
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers[0] / numbers[1]
}

fn count<T>(mut what: impl FnMut() -> T) -> (usize, Duration) {
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < SPAN {
        what();
        times += 1;
    }
    (times, began.elapsed())
}

/// From the sending of a command by a client of the API to the call in the hypervisor, and to the answer.
fn native(parent: &Parent, way: &mut Way) {
    let uuid = done(parent.act("one", create("deaf", true))).uuid.to_string();
    let (mut calls, mut answers) = (Vec::new(), Vec::new());
    let mut sent = Vec::new();
    for n in 0..COMMANDS {
        let verb = if n % 2 == 0 { Verb::Pause } else { Verb::Resume };
        let body = json!({ "verb": verb.as_str(), "client_token": format!("figure-{n}") });
        sent.push(micros());
        let began = Instant::now();
        let (status, answer) = way.ask(Method::Post, "/v1/instances/one/commands", Some(&body));
        assert_eq!(status, 202, "{answer}");
        answers.push(began.elapsed().as_micros() as u64);
        // The next one begins when this one has ended.
        parent.act("one", Action::Describe {});
    }
    let times = parent.native.times(&uuid, &["stop", "cont"]);
    // The first is the start's own.
    for (sent, call) in sent.iter().zip(times.iter().skip(1)) {
        calls.push(call - sent);
    }
    let shown = |what: &str, times: &mut Vec<u64>| {
        times.sort_unstable();
        let at = |share: usize| times[times.len() * share / 100] as f64 / 1000.0;
        println!("| {what}, p50 / p99 | {:.2} / {:.2} ms |", at(50), at(99));
    };
    shown("command at the API to its call in QEMU, both journals written", &mut calls);
    shown("the same to its answer", &mut answers);
}

fn micros() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64
}

/// What a connection takes, and that there are no more than so many.
fn memory(parent: &Parent, pid: u32, pki: &Path) {
    let before = resident(pid);
    let mut ways: Vec<Way> = Vec::new();
    for _ in 0..2 {
        let mut way = Way::new(&parent.stage.net, pki);
        way.ask(Method::Get, "/v1", None);
        ways.push(way);
    }
    let more = resident(pid).saturating_sub(before);
    println!("| resident memory of a TLS connection to the API | {} KiB |", more / ways.len() as u64 / 1024);
}

/// Bytes of a process that are in memory.
fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Events of the agent, all of them from the first.
fn events(parent: &Parent) {
    // Each is an event of the state and one of the operation.
    for n in 0..EVENTS / 2 {
        parent.act("one", if n % 2 == 0 { Action::Pause {} } else { Action::Resume {} });
    }
    let (mut after, mut seen) = (0, 0);
    let began = Instant::now();
    loop {
        let path = format!("{}?after={after}&wait=0", agent_protocol::path::EVENTS);
        let (status, body) = parent.request(Method::Get, &path, None).unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let page: agent_protocol::EventPage = agent_protocol::decode(&body).unwrap();
        if page.events.is_empty() {
            break;
        }
        (after, seen) = (page.next, seen + page.events.len());
    }
    println!("| {seen} events of the agent replayed | {:.0} ms |", ms(began.elapsed()));
}

/// A thousand instances, listed page by page.
fn many(parent: &Parent, pki: &Path) {
    for n in 0..INSTANCES - 1 {
        done(parent.act(&format!("many-{n:04}"), create("deaf", false)));
    }
    // A connection that was silent all that time would have been closed.
    let mut way = Way::new(&parent.stage.net, pki);
    let began = Instant::now();
    let (mut seen, mut pages, mut after) = (0, 0, String::new());
    loop {
        let (status, answer) = way.ask(Method::Get, &format!("/v1/instances?limit=100{after}"), None);
        assert_eq!(status, 200, "{answer}");
        let items = answer.pointer("/items").or(answer.pointer("/instances")).and_then(Value::as_array);
        seen += items.unwrap().len();
        pages += 1;
        let Some(next) = answer.pointer("/next").and_then(Value::as_str) else { break };
        after = format!("&after={next}");
    }
    println!("| {seen} instances listed by the API, {pages} pages | {:.0} ms |", ms(began.elapsed()));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
