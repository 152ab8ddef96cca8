//! From an HTTP request on a real socket through the plane and the real agent to a real QEMU process.

use super::desk::{Shelf, configuration};
use crate::wire::Wire;
use crate::*;
use agent::{Agent, Config, Shutdown};
use core::future::poll_fn;
use core::net::SocketAddrV4;
use core::task::Poll;
use kernel_runtime::{Executor, Instant};
use management_http::{Client, Limits, Method};
use network::{ConnectError, Reset};
use network_tls::{Algorithm, Buffers, ClientConfig, Pin, PrivateKey};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tests_pki::crypto;

/// Connections of the API at once.
const SESSIONS: usize = 6;
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A slot on the host's own sockets. It asks again at each poll; that is good enough for a test.
pub(super) struct Socket {
    pub(super) listener: Option<TcpListener>,
    pub(super) stream: Option<TcpStream>,
}

async fn until<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    poll_fn(|cx| match attempt() {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        outcome => Poll::Ready(outcome),
    })
    .await
}

impl Wire for Socket {
    async fn accept(&mut self, _: u16) {
        let listener = self.listener.as_ref().unwrap();
        let (stream, _) = until(|| listener.accept()).await.unwrap();
        stream.set_nonblocking(true).unwrap();
        self.stream = Some(stream);
    }

    async fn connect(&mut self, to: SocketAddrV4) -> Result<(), ConnectError> {
        let stream = TcpStream::connect(to).map_err(|_| ConnectError::Refused)?;
        stream.set_nonblocking(true).unwrap();
        self.stream = Some(stream);
        Ok(())
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Reset> {
        let stream = self.stream.as_mut().ok_or(Reset)?;
        until(|| stream.read(buffer)).await.map_err(|_| Reset)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Reset> {
        let stream = self.stream.as_mut().ok_or(Reset)?;
        until(|| stream.write(bytes)).await.map_err(|_| Reset)
    }

    async fn finish(&mut self) {
        self.stream = None;
    }

    fn abort(&mut self) {
        self.stream = None;
    }
}

/// An appliance's management on a thread, an agent on another, and a directory that is removed at the end.
struct Host {
    directory: PathBuf,
    api: SocketAddr,
    agent_address: SocketAddr,
    agent: Option<(Shutdown, JoinHandle<()>)>,
    stop: mpsc::Sender<()>,
    appliance: Option<JoinHandle<()>>,
    /// What the appliance's key is called.
    pin: Pin,
}

impl Host {
    fn new(name: &str) -> Self {
        Self::with(name, true)
    }

    /// Whether the appliance believes the agent's key.
    fn with(name: &str, believes: bool) -> Self {
        assert!(std::path::Path::new(QEMU).exists(), "this test needs {QEMU} (Debian: qemu-system-x86)");
        let directory = std::env::temp_dir().join(format!("corbel-whole-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let images = json!({"qemu":{"executable":QEMU,"images":{"none":{"arguments":["-machine","none","-accel","tcg"]}}}});
        std::fs::write(directory.join("images.json"), images.to_string()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = listener.local_addr().unwrap();
        let mut host = Self {
            directory,
            api,
            agent_address: "127.0.0.1:0".parse().unwrap(),
            agent: None,
            stop: mpsc::channel().0,
            appliance: None,
            pin: Pin([0; 32]),
        };
        // The two know each other by their keys.
        let [ours, agents] = [(); 2].map(|()| PrivateKey::generate(crypto(), Algorithm::P256).unwrap());
        let pem = network_tls::pem("PRIVATE KEY", agents.pkcs8());
        std::fs::write(host.directory.join("agent.pem"), pem).unwrap();
        host.pin = ours.pin();
        let believed = if believes { agents.pin() } else { Pin([9; 32]) };
        let identity = ours.self_signed("appliance").unwrap();
        let config = ClientConfig::pinned(crypto(), &[believed], identity).unwrap();
        host.start_agent();
        let agent = host.agent_address.to_string();
        let (stop, stopped) = mpsc::channel();
        host.stop = stop;
        host.appliance = Some(std::thread::spawn(move || appliance(listener, &agent, config, &stopped)));
        host
    }

    fn start_agent(&mut self) {
        let config = Config {
            listen: self.agent_address,
            images: self.directory.join("images.json"),
            run_directory: self.directory.join("run"),
            end_guests: false,
            pins: vec![self.pin],
            key: Some(self.directory.join("agent.pem")),
            insecure: false,
        };
        let agent = Agent::bind(&config).unwrap();
        self.agent_address = agent.address().unwrap();
        let shutdown = Shutdown::default();
        let told = shutdown.clone();
        self.agent = Some((shutdown, std::thread::spawn(move || agent.serve(&told))));
    }

    fn stop_agent(&mut self) {
        let (shutdown, thread) = self.agent.take().unwrap();
        shutdown.request();
        thread.join().unwrap();
    }

    fn request(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let body = body.map(|body| body.to_string());
        let mut client = Client::new(Limits::CLIENT, "corbel");
        client.request(method, path, body.as_ref().map(String::as_bytes));
        let mut stream = TcpStream::connect(self.api).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(client.transmit()).unwrap();
        while client.reply().is_none() {
            let count = match stream.read(client.space()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome.unwrap(),
            };
            assert!(count > 0);
            client.received(count).unwrap();
        }
        let reply = client.reply().unwrap();
        (reply.status, serde_json::from_slice(reply.body).unwrap_or_default())
    }

    fn command(&self, id: &str, verb: &str) -> (u16, Value) {
        self.request(Method::Post, &format!("/v1/instances/{id}/commands"), Some(json!({ "verb": verb })))
    }

    fn state(&self, id: &str) -> String {
        let (status, instance) = self.request(Method::Get, &format!("/v1/instances/{id}"), None);
        assert_eq!(status, 200, "{instance}");
        instance["state"].as_str().unwrap().to_owned()
    }

    fn await_ready(&self) {
        for _ in 0..500 {
            if self.request(Method::Get, "/readyz", None).0 == 200 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{}", self.request(Method::Get, "/readyz", None).1);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(appliance) = self.appliance.take() {
            let _ = appliance.join();
        }
        if let Some((shutdown, thread)) = self.agent.take() {
            shutdown.request();
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn appliance(listener: TcpListener, agent: &str, config: ClientConfig, stopped: &mpsc::Receiver<()>) {
    listener.set_nonblocking(true).unwrap();
    let mut executor = Executor::new(2 + SESSIONS);
    let buffers = Buffers { receive: 20 << 10, transmit: 20 << 10 };
    let dialling = Some(Rc::new(Dialling { config, buffers }));
    let configuration = Configuration { dialling, ..configuration(Some(agent)) };
    let plane = Management::new(configuration, Shelf::default(), None, executor.clock());
    let management = Rc::new(plane);
    for _ in 0..SESSIONS {
        let slot = Socket { listener: Some(listener.try_clone().unwrap()), stream: None };
        let shared = management.clone();
        executor.add("session", async move { session::serve_on(slot, 0, &shared).await });
    }
    let (slot, shared) = (Socket { listener: None, stream: None }, management.clone());
    executor.add("link", async move { link::link_on(slot, &shared).await });
    executor.add("operations", keep(management.clone()));
    let began = std::time::Instant::now();
    while stopped.try_recv().is_err() {
        let now = u64::try_from(began.elapsed().as_micros()).unwrap();
        executor.run_ready(Instant::from_micros(now));
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn kind(answer: &(u16, Value)) -> (u16, &str) {
    (
        answer.0,
        answer.1["type"].as_str().unwrap_or_default().strip_prefix("urn:corbel:problem:").unwrap_or_default(),
    )
}

#[test]
fn terminate_through_the_api_ends_a_real_process_and_each_error_is_its_own() {
    let mut host = Host::new("terminate");
    host.await_ready();
    let about = host.request(Method::Get, "/v1", None).1;
    assert_eq!(about["agent"]["hypervisors"][0]["name"], "qemu");
    assert_eq!(host.request(Method::Get, "/v1/images", None).1["images"], json!(["none"]));

    let (status, operation) =
        host.request(Method::Post, "/v1/instances", Some(json!({"id":"web-1","image":"none"})));
    assert_eq!((status, &operation["state"]), (201, &json!("succeeded")), "{operation}");
    let uuid = operation["result"]["uuid"].as_str().unwrap().to_owned();
    let pid = std::fs::read_to_string(host.directory.join("run/qemu").join(&uuid).join("pid")).unwrap();
    let process = PathBuf::from("/proc").join(pid.trim());
    assert!(process.exists());

    for (verb, state) in [("pause", "paused"), ("resume", "running")] {
        assert_eq!(host.command("web-1", verb).1["changed"], true);
        assert_eq!(host.command("web-1", verb).1["changed"], false, "the same again changes nothing");
        assert_eq!(host.state("web-1"), state);
    }
    let (status, operation) = host.command("web-1", "terminate");
    assert_eq!(
        (status, &operation["state"], &operation["changed"]),
        (202, &json!("succeeded"), &json!(true))
    );
    assert!(operation["evidence"][0].as_str().unwrap().contains("is gone"), "{operation}");
    assert!(!process.exists(), "the process is gone");

    assert_eq!(kind(&host.command("web-1", "terminate")), (409, "instance-terminated"));
    assert_eq!(kind(&host.command("nobody", "terminate")), (404, "unknown-instance"));
    let unknown = host.request(Method::Post, "/v1/instances", Some(json!({"id":"a","image":"windows"})));
    assert_eq!(kind(&unknown), (422, "unknown-image"));

    host.stop_agent();
    assert_eq!(kind(&host.command("web-1", "terminate")), (503, "agent-unavailable"));
    assert_eq!(kind(&host.request(Method::Get, "/v1/instances", None)), (503, "agent-unavailable"));
    assert_eq!(host.request(Method::Get, "/healthz", None).0, 200);
    assert_eq!(host.request(Method::Get, "/readyz", None).0, 503);
    host.start_agent();
    host.await_ready();
    assert_eq!(kind(&host.command("web-1", "terminate")), (409, "instance-terminated"), "it remembers");
}

#[test]
fn a_graceful_stop_goes_on_until_the_guest_is_off_and_is_followed_by_its_operation() {
    let host = Host::new("stop");
    host.await_ready();
    assert_eq!(host.request(Method::Post, "/v1/instances", Some(json!({"id":"a","image":"none"}))).0, 201);
    let stop = json!({"verb":"stop","args":{"timeout_ms":300,"then":"force"},"client_token":"stop-1"});
    let (status, operation) = host.request(Method::Post, "/v1/instances/a/commands", Some(stop.clone()));
    assert_eq!((status, &operation["state"]), (202, &json!("running")), "{operation}");
    assert_eq!(host.request(Method::Post, "/v1/instances/a/commands", Some(stop)).1["id"], operation["id"]);
    let path = format!("/v1/operations/{}", operation["id"].as_str().unwrap());
    let mut ended = Value::Null;
    for _ in 0..100 {
        ended = host.request(Method::Get, &path, None).1;
        if ended["state"] != "running" {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(host.state("a"), "stopped");
    assert_eq!(host.command("a", "terminate").0, 202);
}

#[test]
fn commands_go_through_the_one_link_while_several_monitors_hang() {
    let host = Host::new("hang");
    host.await_ready();
    let hung = ["hung-1", "hung-2", "hung-3"];
    for id in hung.into_iter().chain(["well"]) {
        let (status, operation) =
            host.request(Method::Post, "/v1/instances", Some(json!({"id":id,"image":"none"})));
        assert_eq!(status, 201, "{operation}");
        if id == "well" {
            continue;
        }
        let uuid = operation["result"]["uuid"].as_str().unwrap();
        let pid = std::fs::read_to_string(host.directory.join("run/qemu").join(uuid).join("pid")).unwrap();
        let stopped = std::process::Command::new("kill").args(["-STOP", pid.trim()]).status().unwrap();
        assert!(stopped.success());
    }
    std::thread::scope(|scope| {
        let waiting: Vec<_> = hung.iter().map(|id| scope.spawn(|| host.command(id, "pause"))).collect();
        let looking = scope.spawn(|| host.request(Method::Get, "/v1/instances/hung-1/stats", None));
        std::thread::sleep(Duration::from_millis(300));
        let began = std::time::Instant::now();
        for verb in ["pause", "resume"].repeat(3) {
            assert_eq!(host.command("well", verb).1["changed"], true);
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "six commands beside hung machines: {took:?}");
        for outcome in waiting {
            // Still under way, or given up by then: the one thing that it is not is done.
            let (status, operation) = outcome.join().unwrap();
            assert!(operation["state"] == "running" || matches!(status, 409 | 502 | 504), "{operation}");
        }
        let (status, problem) = looking.join().unwrap();
        assert!(matches!(status, 502 | 504), "{problem}");
    });
    for id in hung.into_iter().chain(["well"]) {
        let (status, operation) = host.command(id, "terminate");
        assert_eq!((status, &operation["state"]), (202, &json!("succeeded")), "{operation}");
    }
}

#[test]
fn an_agent_with_another_key_is_never_told_a_command() {
    let host = Host::with("another-key", false);
    let create = json!({"id":"web-1","image":"none"});
    let (status, problem) = host.request(Method::Post, "/v1/instances", Some(create));
    assert_eq!(
        (status, problem["type"].as_str()),
        (503, Some("urn:corbel:problem:agent-unavailable")),
        "{problem}"
    );
    let (_, ready) = host.request(Method::Get, "/readyz", None);
    let reason = ready["agent"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("TLS: the peer's certificate is not accepted"), "{ready}");
}

#[test]
fn an_appliance_whose_key_the_agent_does_not_know_is_told_so() {
    let mut host = Host::new("unknown-appliance");
    host.stop_agent();
    host.pin = Pin([8; 32]);
    host.start_agent();
    let create = json!({"id":"web-1","image":"none"});
    let (status, problem) = host.request(Method::Post, "/v1/instances", Some(create));
    assert_eq!(status, 503, "{problem}");
    let (_, ready) = host.request(Method::Get, "/readyz", None);
    let reason = ready["agent"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("TLS: the peer refuses: AccessDenied"), "{ready}");
}
