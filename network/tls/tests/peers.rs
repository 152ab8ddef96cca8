//! Other people's TLS over loopback: OpenSSL, and GnuTLS through nbdkit and qemu-nbd.
//!
//! A program that is not installed is skipped with a line that says so; with `CI=true` that is a failure.
#![allow(clippy::unwrap_used, reason = "only tests come here")]

mod pki;

use network_tls::{
    Anchors, Buffers, ClientConfig, Clients, Connection, Dates, Fatal, Identity, ServerConfig,
};
use pki::{Authority, Issued, Kind, Leaf, NOW, crypto};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How long anything may take.
const LONG: Duration = Duration::from_secs(30);

/// A program that is ended when the test is.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok() {
        return true;
    }
    eprintln!("skipped: {program} is not installed");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{program} is not installed");
    false
}

/// A folder of its own, and a port that nobody had a moment ago.
fn place() -> (PathBuf, u16) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    (folder, port)
}

fn connect(port: u16) -> TcpStream {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(LONG)).unwrap();
                stream.set_nodelay(true).unwrap();
                return stream;
            }
            Err(error) if begin.elapsed() > LONG => panic!("port {port}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let begin = Instant::now();
    listener.set_nonblocking(true).unwrap();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(LONG)).unwrap();
                return stream;
            }
            Err(error) => assert!(begin.elapsed() < LONG, "nobody came: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// One engine on one socket, blocking.
struct Pump {
    tls: Connection,
    stream: TcpStream,
}

impl Pump {
    fn flush(&mut self) {
        loop {
            let bytes = self.tls.poll_transmit();
            if bytes.is_empty() {
                return;
            }
            let count = self.stream.write(bytes).unwrap_or(0);
            if count == 0 {
                return;
            }
            self.tls.transmitted(count);
        }
    }

    /// Wait for bytes; answers whether there were any.
    fn fill(&mut self) -> Result<bool, Fatal> {
        self.flush();
        let space = self.tls.space();
        assert!(!space.is_empty());
        let count = self.stream.read(space).unwrap_or(0);
        if count == 0 {
            self.tls.end_of_stream()?;
            return Ok(false);
        }
        let outcome = self.tls.received(count);
        self.flush();
        outcome.map(|()| true)
    }

    fn handshake(tls: Connection, stream: TcpStream) -> Result<Self, Fatal> {
        let mut pump = Self { tls, stream };
        while !pump.tls.is_established() {
            pump.fill()?;
        }
        pump.flush();
        Ok(pump)
    }

    fn read_exact(&mut self, out: &mut [u8]) -> Result<(), Fatal> {
        let mut have = 0;
        while have < out.len() {
            let count = self.tls.read(&mut out[have..])?;
            have += count;
            if count == 0 && !self.fill()? {
                return Err(Fatal::Truncated);
            }
        }
        Ok(())
    }

    fn write_all(&mut self, mut data: &[u8]) -> Result<(), Fatal> {
        while !data.is_empty() {
            let count = self.tls.write(data)?;
            data = &data[count..];
            self.flush();
        }
        Ok(())
    }
}

/// An authority, a server for `localhost` and 127.0.0.1, and a client, as files and as values.
struct World {
    folder: PathBuf,
    port: u16,
    authority: Authority,
    server: Issued,
    client: Issued,
}

impl World {
    fn new(kind: Kind) -> Self {
        let (folder, port) = place();
        let authority = Authority::new("authority of a test", kind);
        let server = authority.issue(&Leaf { kind, ..Leaf::server(&["localhost", "127.0.0.1"]) });
        let client = authority.issue(&Leaf { kind, ..Leaf::client() });
        let world = Self { folder, port, authority, server, client };
        // The names that QEMU and nbdkit look for.
        world.write("ca-cert.pem", &pki::pem("CERTIFICATE", &world.authority.der));
        for (name, issued) in [("server", &world.server), ("client", &world.client)] {
            world.write(&format!("{name}-cert.pem"), &pki::pem("CERTIFICATE", &issued.der));
            world.write(&format!("{name}-key.pem"), &pki::pem("PRIVATE KEY", &issued.key));
        }
        world
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn anchors(&self) -> Anchors {
        Anchors::from_pem(&std::fs::read_to_string(self.folder.join("ca-cert.pem")).unwrap()).unwrap()
    }

    fn client_config(&self, identity: Option<Identity>) -> ClientConfig {
        ClientConfig::new(crypto(), &self.anchors(), identity, Dates::MustBeChecked).unwrap()
    }

    fn dial(&self, identity: Option<Identity>, name: &str) -> Connection {
        Connection::client(&self.client_config(identity), name, Some(now()), Buffers::default()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// OpenSSL as a server that sends back each line with its letters in reverse.
fn s_server(world: &World, more: &[&str]) -> Program {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{}", world.port)]);
    command.args(["-cert", &world.path("server-cert.pem"), "-key", &world.path("server-key.pem")]);
    command.args(["-CAfile", &world.path("ca-cert.pem"), "-verify_return_error"]).args(more);
    if !more.contains(&"-www") {
        command.arg("-rev");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Program(command.spawn().unwrap())
}

fn reversed(pump: &mut Pump, words: &str) -> Result<String, Fatal> {
    pump.write_all(format!("{words}\n").as_bytes())?;
    let mut back = vec![0; words.len() + 1];
    pump.read_exact(&mut back)?;
    Ok(String::from_utf8(back).unwrap().trim_end().to_owned())
}

#[test]
fn openssl_as_a_server_with_every_kind_of_key_and_every_cipher() {
    if !installed("openssl") {
        return;
    }
    for kind in pki::KINDS {
        let world = World::new(kind);
        let _server = s_server(&world, &["-Verify", "2"]);
        let tls = world.dial(Some(world.client.identity()), "localhost");
        let mut pump = Pump::handshake(tls, connect(world.port)).unwrap();
        assert_eq!(reversed(&mut pump, "desserts").unwrap(), "stressed", "{kind:?}");
        // Without a certificate: what s_server says with a page it does not say with -rev.
        let world = World::new(kind);
        let _server = s_server(&world, &["-Verify", "2", "-www"]);
        let tls = world.dial(None, "127.0.0.1");
        let outcome = Pump::handshake(tls, connect(world.port)).and_then(|mut pump| reversed(&mut pump, "x"));
        assert_eq!(outcome, Err(Fatal::Refused("CertificateRequired".into())), "{kind:?}");
    }
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        for group in ["X25519", "P-256"] {
            let world = World::new(Kind::P256);
            let _server = s_server(&world, &["-ciphersuites", suite, "-groups", group]);
            let mut pump = Pump::handshake(world.dial(None, "localhost"), connect(world.port)).unwrap();
            assert_eq!(pump.tls.suite().unwrap().replace("TLS13", "TLS"), suite);
            assert_eq!(reversed(&mut pump, "desserts").unwrap(), "stressed");
        }
    }
}

#[test]
fn openssl_that_is_too_old_or_somebody_else_is_refused() {
    if !installed("openssl") {
        return;
    }
    let world = World::new(Kind::P256);
    let _server = s_server(&world, &["-tls1_2"]);
    let outcome = Pump::handshake(world.dial(None, "localhost"), connect(world.port));
    let fatal = outcome.err().unwrap();
    assert!(matches!(fatal, Fatal::Incompatible(_) | Fatal::Refused(_)), "{fatal:?}");
    let world = World::new(Kind::P256);
    let _server = s_server(&world, &[]);
    let outcome = Pump::handshake(world.dial(None, "storage.example"), connect(world.port));
    assert!(matches!(outcome.err(), Some(Fatal::Certificate(_))));
    let stranger = World::new(Kind::P256);
    let outcome = Pump::handshake(stranger.dial(None, "localhost"), connect(world.port));
    assert!(matches!(outcome.err(), Some(Fatal::Certificate(_) | Fatal::Forged)));
}

#[test]
fn openssl_as_a_client_that_asks_for_new_keys() {
    if !installed("openssl") {
        return;
    }
    for kind in pki::KINDS {
        let world = World::new(kind);
        let listener = TcpListener::bind(("127.0.0.1", world.port)).unwrap();
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{}", world.port),
            "-servername",
            "localhost",
        ]);
        command.args(["-cert", &world.path("client-cert.pem"), "-key", &world.path("client-key.pem")]);
        command.args(["-CAfile", &world.path("ca-cert.pem"), "-verify_return_error"]);
        command.args(["-verify_hostname", "localhost"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut client = Program(command.spawn().unwrap());
        let mut say = client.0.stdin.take().unwrap();

        let clients = Clients::Known(world.anchors());
        let config =
            ServerConfig::new(crypto(), world.server.identity(), &clients, Dates::MustBeChecked).unwrap();
        let tls = Connection::server(&config, Some(now()), Buffers::default()).unwrap();
        let mut pump = Pump::handshake(tls, accept(&listener)).unwrap();
        assert_eq!(pump.tls.peer_certificate(), Some(&world.client.der[..]), "{kind:?}");

        let mut line = [0; 6];
        say.write_all(b"hello\n").unwrap();
        pump.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
        for command in ["k\n", "K\n", "K\n"] {
            // s_client reads a line at a time: what comes in one read is one line.
            std::thread::sleep(Duration::from_millis(200));
            say.write_all(command.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            say.write_all(b"again\n").unwrap();
            pump.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"again\n");
            pump.write_all(b"and back\n").unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
        say.write_all(b"Q\n").unwrap();
        while !pump.tls.peer_closed() {
            assert!(pump.fill().unwrap_or(false) || pump.tls.peer_closed());
            pump.tls.read(&mut [0; 10]).unwrap();
        }
        let mut words = String::new();
        client.0.stdout.take().unwrap().read_to_string(&mut words).unwrap();
        assert_eq!(words.matches("and back").count(), 3, "{words}");
    }
}

/// STARTTLS of NBD by hand, then TLS, then the length of the export by NBD_OPT_GO and its first bytes.
fn nbd_read(
    world: &World,
    identity: Option<Identity>,
    name: &str,
    export: &str,
    length: u32,
) -> Result<Vec<u8>, Fatal> {
    let mut stream = connect(world.port);
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0").unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[8..], [0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0], "no STARTTLS");

    let mut pump = Pump::handshake(world.dial(identity, name), stream)?;
    let mut go = b"IHAVEOPT\0\0\0\x07".to_vec();
    go.extend((export.len() as u32 + 6).to_be_bytes());
    go.extend((export.len() as u32).to_be_bytes());
    go.extend(export.as_bytes());
    go.extend([0, 0]);
    pump.write_all(&go)?;
    loop {
        let mut reply = [0; 20];
        pump.read_exact(&mut reply)?;
        let kind = u32::from_be_bytes(reply[12..16].try_into().unwrap());
        let mut payload = vec![0; u32::from_be_bytes(reply[16..].try_into().unwrap()) as usize];
        pump.read_exact(&mut payload)?;
        match kind {
            1 => break,
            3 => {}
            other => panic!("reply {other:#x}: {}", String::from_utf8_lossy(&payload)),
        }
    }
    let mut data = vec![0; length as usize];
    let mut request = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0];
    request.extend([7; 8]);
    request.extend(0_u64.to_be_bytes());
    request.extend(length.to_be_bytes());
    pump.write_all(&request)?;
    let mut header = [0; 16];
    pump.read_exact(&mut header)?;
    assert_eq!(header, *b"\x67\x44\x66\x98\0\0\0\0\x07\x07\x07\x07\x07\x07\x07\x07");
    pump.read_exact(&mut data)?;
    let mut farewell = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2];
    farewell.extend([0; 20]);
    pump.write_all(&farewell)?;
    pump.tls.close();
    pump.flush();
    Ok(data)
}

/// The three things that must hold for a server that asks for certificates.
fn nbd_peer(world: &World, export: &str, expected: &[u8]) {
    let length = expected.len() as u32;
    for name in ["localhost", "127.0.0.1"] {
        let read = nbd_read(world, Some(world.client.identity()), name, export, length).unwrap();
        assert!(read == expected);
    }
    let outcome = nbd_read(world, None, "localhost", export, length);
    assert!(outcome.is_err(), "a client without a certificate got in");
    let stranger = Authority::new("stranger", Kind::P256).issue(&Leaf::client());
    let outcome = nbd_read(world, Some(stranger.identity()), "localhost", export, length);
    assert!(outcome.is_err(), "a client of another authority got in");
    let outcome = nbd_read(world, Some(world.client.identity()), "storage.example", export, length);
    assert!(matches!(outcome, Err(Fatal::Certificate(_))), "{outcome:?}");
}

fn image(world: &World) -> Vec<u8> {
    let data: Vec<u8> = (0..4 << 20).map(|index: u32| (index / 7 % 251) as u8).collect();
    std::fs::write(world.folder.join("disk"), &data).unwrap();
    data
}

#[test]
fn nbdkit_over_gnutls() {
    if !installed("nbdkit") {
        return;
    }
    for kind in [Kind::P256, Kind::Rsa] {
        let world = World::new(kind);
        let data = image(&world);
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--ipaddr", "127.0.0.1"]);
        command.args(["--port", &world.port.to_string(), "--tls", "require", "--tls-verify-peer"]);
        command.args(["--tls-certificates", &world.folder.display().to_string(), "file"]);
        command.arg(world.folder.join("disk")).stderr(Stdio::null());
        let _server = Program(command.spawn().unwrap());
        nbd_peer(&world, "", &data);
    }
}

#[test]
fn qemu_nbd_over_gnutls() {
    if !installed("qemu-nbd") {
        return;
    }
    for kind in [Kind::P256, Kind::P384, Kind::Rsa] {
        let world = World::new(kind);
        let data = image(&world);
        let mut command = Command::new("qemu-nbd");
        let folder = world.folder.display();
        command.args([
            "--object",
            &format!("tls-creds-x509,id=tls,endpoint=server,verify-peer=yes,dir={folder}"),
        ]);
        command.args(["--tls-creds", "tls", "--bind", "127.0.0.1", "--port", &world.port.to_string()]);
        command.args(["--persistent", "--shared", "4", "--format", "raw", "--export-name", "disk"]);
        command.arg(world.folder.join("disk")).stderr(Stdio::null());
        let _server = Program(command.spawn().unwrap());
        nbd_peer(&world, "disk", &data);
    }
}

/// Certificates as the manual of QEMU makes them, by GnuTLS's own program.
#[test]
fn certificates_of_certtool_are_understood() {
    if !installed("certtool") {
        return;
    }
    let world = World::new(Kind::P256);
    let certtool = |arguments: &[&str], out: &str| {
        let mut command = Command::new("certtool");
        command.args(arguments).arg("--outfile").arg(world.folder.join(out)).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
    };
    world.write("ca.info", "cn = Somebody\nca\ncert_signing_key\n");
    world.write("server.info", "organization = Somebody\ncn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\nencryption_key\nsigning_key\n");
    let path = |name: &str| world.path(name);
    certtool(&["--generate-privkey"], "ca-key.pem");
    certtool(
        &["--generate-self-signed", "--load-privkey", &path("ca-key.pem"), "--template", &path("ca.info")],
        "ca-cert.pem",
    );
    certtool(&["--generate-privkey"], "server-key.pem");
    certtool(
        &[
            "--generate-certificate",
            "--load-ca-certificate",
            &path("ca-cert.pem"),
            "--load-ca-privkey",
            &path("ca-key.pem"),
            "--load-privkey",
            &path("server-key.pem"),
            "--template",
            &path("server.info"),
        ],
        "server-cert.pem",
    );
    if installed("openssl") {
        let _server = s_server(&world, &[]);
        let mut pump = Pump::handshake(world.dial(None, "localhost"), connect(world.port)).unwrap();
        assert_eq!(reversed(&mut pump, "desserts").unwrap(), "stressed");
    }
    // Our own identity out of the same files.
    let text = |name: &str| std::fs::read_to_string(Path::new(&path(name))).unwrap();
    let identity = Identity::from_pem(&text("server-cert.pem"), &text("server-key.pem")).unwrap();
    assert!(ServerConfig::new(crypto(), identity, &Clients::Anybody, Dates::MustBeChecked).is_ok());
    assert!(now() > NOW - 400 * 86_400);
}
