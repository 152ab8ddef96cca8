//! curl and openssl at the door, over the host's own sockets.

use super::desk::{Shelf, configuration};
use super::door::{BUFFERS, VM, lock};
use super::resets::disk;
use super::whole::Socket;
use crate::*;
use kernel_runtime::{Day, Executor, Instant};
use network_tls::Token;
use serde_json::Value;
use state::Records;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tests_pki::{Authority, Issued, Kind, Leaf, pem};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// An appliance's management on a thread, and a folder of certificates.
struct Appliance {
    folder: PathBuf,
    address: String,
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Appliance {
    /// With a certificate, or to be enrolled.
    fn start(name: &str, authority: Vec<u8>, own: Option<Issued>) -> Self {
        let folder = std::env::temp_dir().join(format!("corbel-door-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ca.pem"), pem("CERTIFICATE", &authority)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || run(listener, authority, own, &stopped));
        Self { folder, address, stop, thread: Some(thread) }
    }

    fn write(&self, name: &str, issued: &Issued) {
        std::fs::write(self.folder.join(format!("{name}.pem")), pem("CERTIFICATE", &issued.der)).unwrap();
        std::fs::write(self.folder.join(format!("{name}-key.pem")), pem("PRIVATE KEY", &issued.key)).unwrap();
    }

    /// Run a line of shell in the folder, `$A` being the address: what it has printed, if it succeeded.
    fn shell(&self, line: &str) -> Result<String, String> {
        let mut command = Command::new("sh");
        command.args(["-ec", line]).current_dir(&self.folder).env("A", &self.address).env("T", TOKEN);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(text) } else { Err(said + &text) }
    }

    /// What curl gets with this certificate: status and document.
    fn curl(&self, name: &str, path: &str) -> Result<(u16, Value), String> {
        let identity =
            if name.is_empty() { String::new() } else { format!("--cert {name}.pem --key {name}-key.pem") };
        let line = format!(
            "curl -sS --noproxy '*' --max-time 20 --cacert ca.pem {identity} -w '\\n%{{http_code}}' https://$A{path}"
        );
        let text = self.shell(&line)?;
        let (body, status) = text.rsplit_once('\n').unwrap();
        Ok((status.parse().unwrap(), serde_json::from_str(body).unwrap_or_default()))
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(listener: TcpListener, authority: Vec<u8>, own: Option<Issued>, stopped: &mpsc::Receiver<()>) {
    listener.set_nonblocking(true).unwrap();
    // Rounded up: what is certified from now on is valid at once.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 1;
    let lock = Lock { day: Some(Day::new(now, Instant::ZERO)), buffers: BUFFERS, ..lock_of(authority) };
    let records = Records::open(Box::new(disk()), 65536, ([1; 16], 7), || Instant::ZERO).unwrap();
    let door = match own {
        Some(own) => Door::locked(lock, vec![own.der], own.key).unwrap(),
        None => {
            let address = Some([127, 0, 0, 1].into());
            let enrolment = Enrolment { token: Token::new(TOKEN), name: "host-7".into(), address };
            Door::enrolled(lock, records.clone(), enrolment).unwrap()
        }
    };
    let mut executor = Executor::new(8);
    let configuration = Configuration { door, ..configuration(None) };
    let plane = Management::new(configuration, Shelf::default(), None, executor.clock());
    let management = Rc::new(plane);
    for _ in 0..2 {
        let slot = Socket { listener: Some(listener.try_clone().unwrap()), stream: None };
        let shared = management.clone();
        executor.add("session", async move { session::serve_on(slot, 0, &shared).await });
    }
    let began = std::time::Instant::now();
    while stopped.try_recv().is_err() {
        let now = Instant::from_micros(u64::try_from(began.elapsed().as_micros()).unwrap());
        executor.run_ready(now);
        records.turn(now);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn lock_of(authority: Vec<u8>) -> Lock {
    let anchors = network_tls::Anchors::from_der([authority]).unwrap();
    Lock { anchors, ..lock(&Authority::new("any", Kind::P256)) }
}

#[test]
fn curl_is_let_in_with_the_right_certificate_and_with_no_other() {
    let authority = Authority::new("provider", Kind::P256);
    let own = authority.issue(&Leaf::server(&["127.0.0.1"]));
    let appliance = Appliance::start("curl", authority.der.clone(), Some(own));
    let client = |names| Leaf { names, ..Leaf::client() };
    let net = ["spiffe://example.org/svc/net"];
    let two = [VM, net[0]];
    appliance.write("vm", &authority.issue(&client(&[VM])));
    appliance.write("ed25519", &authority.issue(&Leaf { kind: Kind::Ed25519, ..client(&[VM]) }));
    appliance.write("rsa", &authority.issue(&Leaf { kind: Kind::Rsa, ..client(&[VM]) }));
    appliance.write("net", &authority.issue(&client(&net)));
    appliance.write("two", &authority.issue(&client(&two)));
    appliance.write("expired", &authority.issue(&Leaf { years: (2024, 2025), ..client(&[VM]) }));
    appliance.write("early", &authority.issue(&Leaf { years: (2055, 2056), ..client(&[VM]) }));
    appliance.write("other", &Authority::new("other", Kind::P256).issue(&client(&[VM])));
    for name in ["vm", "ed25519", "rsa"] {
        assert_eq!(appliance.curl(name, "/v1").map(|(status, _)| status), Ok(200), "{name}");
    }
    assert_eq!(appliance.curl("net", "/v1/operations").unwrap().0, 403);
    let (status, problem) = appliance.curl("two", "/healthz").unwrap();
    assert_eq!(status, 403);
    assert!(problem["detail"].as_str().unwrap().contains("more than one URI"), "{problem}");
    for name in ["", "expired", "early", "other"] {
        let refused = appliance.curl(name, "/healthz").expect_err(name);
        assert!(refused.contains("alert"), "{name}: {refused}");
    }
    let old = "openssl s_client -connect $A -tls1_2 -cert vm.pem -key vm-key.pem < /dev/null";
    assert!(appliance.shell(old).expect_err("TLS 1.2").contains("protocol version"));
    // Silent peers in every slot, and more that wait: they cost five seconds.
    let flood: Vec<TcpStream> = (0..12).map(|_| TcpStream::connect(&appliance.address).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(100));
    drop(flood);
    assert_eq!(appliance.curl("vm", "/healthz").unwrap().0, 200);
}

#[test]
fn openssl_and_curl_enrol_an_appliance_as_the_documentation_says() {
    let pki = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca-key.pem \
        -subj /CN=provider -days 30 -addext basicConstraints=critical,CA:TRUE -out ca2.pem 2>/dev/null
        openssl x509 -in ca2.pem -outform der";
    let folder = std::env::temp_dir().join(format!("corbel-door-{}-ca", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let made = Command::new("sh").args(["-ec", pki]).current_dir(&folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let appliance = Appliance::start("enrol", made.stdout, None);
    let answer = appliance.shell("curl -skS --noproxy '*' https://$A/v1/enrol").unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    std::fs::write(appliance.folder.join("a.csr"), answer["request"].as_str().unwrap()).unwrap();
    let proof = appliance.shell(
        "openssl req -in a.csr -outform der -out a.der
        (printf 'corbel-enrol-request\\0'; cat a.der) | openssl dgst -sha256 -hmac $T -r | cut -d' ' -f1",
    );
    assert_eq!(proof.as_deref().map(str::trim), Ok(answer["proof"].as_str().unwrap()));
    let ca = folder.display();
    let line = format!(
        "openssl x509 -req -in a.csr -CA {ca}/ca2.pem -CAkey {ca}/ca-key.pem -days 30 -copy_extensions copy \
            -outform der -out a.der 2>/dev/null
        P=$( (printf 'corbel-enrol-certificate\\0'; cat a.der) | openssl dgst -sha256 -hmac $T -r | cut -d' ' -f1)
        curl -skS --noproxy '*' -H 'content-type: application/json' https://$A/v1/enrol \
            -d \"{{\\\"certificates\\\": [\\\"$(base64 -w0 a.der)\\\"], \\\"proof\\\": \\\"$P\\\"}}\""
    );
    let keys: Value = serde_json::from_str(&appliance.shell(&line).unwrap()).unwrap();
    assert_eq!(keys["certificate"]["enrolled"], true, "{keys}");
    assert_eq!(keys["certificate"]["rotation_due"], false, "{keys}");
    let line = format!(
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout vm-key.pem -subj /CN=vm -out vm.csr \
            -addext subjectAltName=URI:{VM} -addext extendedKeyUsage=clientAuth 2>/dev/null
        openssl x509 -req -in vm.csr -CA {ca}/ca2.pem -CAkey {ca}/ca-key.pem -days 30 -copy_extensions copy -out vm.pem"
    );
    appliance.shell(&line).unwrap();
    let (status, ready) = appliance.curl("vm", "/readyz").unwrap();
    assert_eq!((status, &ready["ready"]), (200, &Value::Bool(true)), "{ready}");
    assert!(
        appliance.shell("curl -skS --noproxy '*' https://$A/v1/enrol").is_err(),
        "nobody without a certificate"
    );
    std::fs::remove_dir_all(folder).unwrap();
}
