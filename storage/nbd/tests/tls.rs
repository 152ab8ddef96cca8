//! STARTTLS with the servers of the distribution. The TLS itself is that of `openssl s_client`: the engine leaves it to
//! who drives it.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use storage_block::{Completion, Operation, Request};
use storage_nbd::{Client, Event, Fatal, Limits, Refusal, Settings, Tls};
use support::model::share;
use support::server::{self, Folder, Server, run};
use support::{Driver, End, Socket};

const SIZE: u64 = 16 << 20;

/// A certificate authority, and certificates of it for server and client, named as GnuTLS users have them. `None` where
/// there is no `openssl`.
fn certificates(folder: &Folder) -> Option<()> {
    let openssl = |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        run("openssl", &arguments, folder)
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca-key.pem -out ca-cert.pem -subj /CN=authority -days 2"))?;
    std::fs::write(folder.0.join("names"), "subjectAltName=IP:127.0.0.1,DNS:storage.example")
        .expect("a file");
    for who in ["server", "client"] {
        openssl(&format!("req {key} -keyout {who}-key.pem -out {who}.csr -subj /CN={who}"))?;
        let authority = "-CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile names";
        openssl(&format!("x509 -req -in {who}.csr {authority} -out {who}-cert.pem"))?;
    }
    Some(())
}

fn copy(mut from: TcpStream, mut to: Socket) {
    let mut bytes = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let mut rest = &bytes[..count];
        while let Ok(count @ 1..) = to.write(rest) {
            rest = &rest[count..];
        }
    }
    to.cut();
}

fn copy_back(mut from: Socket, mut to: TcpStream) {
    let mut bytes = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // The peer may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

/// TLS over a socket, which stands once both ends are satisfied with each other.
struct Tunnel {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Tunnel {
    fn new(socket: &Socket, certificates: &Path, with_client: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-quiet",
            "-verify_quiet",
            "-verify_return_error",
            "-CAfile",
            "ca-cert.pem",
        ]);
        command.args(["-verify_ip", "127.0.0.1", "-connect", &address]);
        if with_client {
            command.args(["-cert", "client-cert.pem", "-key", "client-key.pem"]);
        }
        command.current_dir(certificates).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl");
        let (relay, _) = listener.accept().expect("it connects");
        let (there, back) = (socket.twin(), socket.twin());
        let twin = relay.try_clone().expect("a socket");
        thread::spawn(move || copy(relay, there));
        thread::spawn(move || copy_back(back, twin));
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, input, output }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NOW: kernel_runtime::Instant = kernel_runtime::Instant::ZERO;

/// A client that has gone through the clear part of the negotiation.
fn before_tls(server: &Server, export: &str) -> (Client, Socket) {
    let settings = Settings { tls: Tls::Required, ..Settings::of(export) };
    let mut client = Client::new(&Limits::DEFAULT, settings).expect("a client");
    let mut socket = server.socket().blocking();
    client.connected(NOW);
    while !client.wants_tls() {
        let count = socket.read(client.space()).expect("the server speaks");
        assert!(count > 0, "the server closed the connection");
        client.received(NOW, count).expect("a sound server");
        while let Some(bytes) = client.poll_transmit() {
            let count = socket.write(bytes).expect("the server listens");
            client.transmitted(NOW, count);
        }
    }
    (client, socket)
}

/// Carry bytes until there is an event; `None` when the tunnel ends.
fn next(client: &mut Client, tunnel: &mut Tunnel) -> Option<Event> {
    loop {
        while let Some(bytes) = client.poll_transmit() {
            let count = tunnel.input.write(bytes).ok()?;
            tunnel.input.flush().ok()?;
            client.transmitted(NOW, count);
        }
        if let Some(event) = client.poll_event() {
            return Some(event);
        }
        let count = tunnel.output.read(client.space()).ok().filter(|count| *count > 0)?;
        client.received(NOW, count).expect("a sound server");
    }
}

fn carry(client: &mut Client, tunnel: &mut Tunnel, operation: Operation, length: usize) -> Completion {
    let buffer = operation.carries_data().then(|| {
        let mut buffer = share().take(length).expect("a buffer");
        buffer.fill(0x3c);
        buffer
    });
    let request = Request { cookie: 1, operation, offset: 4096, length: length as u64, buffer };
    client.submit(NOW, request).expect("a slot");
    match next(client, tunnel) {
        Some(Event::Completed(completion)) => completion,
        other => panic!("{other:?}"),
    }
}

fn serves_in_tls(server: &Server, folder: &Folder, export: &str) {
    let (mut client, socket) = before_tls(server, export);
    let mut tunnel = Tunnel::new(&socket, &folder.0, true);
    client.tls_established(NOW);
    assert!(matches!(next(&mut client, &mut tunnel), Some(Event::Ready)));
    let told = client.export().expect("an export");
    assert!(told.tls && told.geometry.size == SIZE);
    let write = Operation::Write { fua: told.geometry.fua };
    assert_eq!(carry(&mut client, &mut tunnel, write, 1 << 20).result, Ok(()));
    let read = carry(&mut client, &mut tunnel, Operation::Read, 1 << 20);
    assert_eq!(read.result, Ok(()));
    assert!(read.buffer.expect("it comes back").iter().all(|&byte| byte == 0x3c));
    client.disconnect();
    assert!(matches!(next(&mut client, &mut tunnel), Some(Event::Closed)));
}

fn refuses_clear(server: &Server, export: &str) {
    let mut driver = Driver::new(Client::new(&Limits::DEFAULT, export).expect("a client"));
    match driver.open(server.socket()) {
        Err(End::Fatal(Fatal::Refused { reason: Refusal::TlsRequired, .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn nbdkit_is_served_in_tls_and_refuses_who_has_no_certificate() {
    let folder = Folder::new();
    let Some(()) = certificates(&folder) else { return };
    let path = format!("--tls-certificates={}", folder.0.display());
    let Some(server) = server::nbdkit(&["--tls=require", "--tls-verify-peer", &path, "memory", "16M"]) else {
        return;
    };
    serves_in_tls(&server, &folder, "");
    refuses_clear(&server, "");
    let (mut client, socket) = before_tls(&server, "");
    let mut tunnel = Tunnel::new(&socket, &folder.0, false);
    client.tls_established(NOW);
    assert!(next(&mut client, &mut tunnel).is_none(), "the server ends it");
}

#[test]
fn qemu_nbd_is_served_in_tls() {
    let folder = Folder::new();
    let Some(()) = certificates(&folder) else { return };
    let object = format!("tls-creds-x509,id=tls0,endpoint=server,verify-peer=yes,dir={}", folder.0.display());
    let Some(server) = server::qemu_nbd_tcp(SIZE, &["--object", &object, "--tls-creds=tls0"]) else { return };
    serves_in_tls(&server, &folder, "");
    refuses_clear(&server, "");
}

#[test]
fn nbd_server_is_served_in_tls() {
    let folder = Folder::new();
    let Some(()) = certificates(&folder) else { return };
    let file = |name: &str| folder.0.join(name).display().to_string();
    let (certificate, key) = (file("server-cert.pem"), file("server-key.pem"));
    let authority = file("ca-cert.pem");
    let generic =
        format!("certfile = {certificate}\nkeyfile = {key}\ncacertfile = {authority}\nforce_tls = true");
    let Some(server) = server::nbd_server_with(SIZE, &generic, "flush = true\nfua = true") else { return };
    serves_in_tls(&server, &folder, "disk");
    refuses_clear(&server, "disk");
}

#[test]
fn a_server_that_is_another_than_its_name_is_noticed_by_who_drives_tls() {
    let (folder, other) = (Folder::new(), Folder::new());
    let (Some(()), Some(())) = (certificates(&folder), certificates(&other)) else { return };
    let path = format!("--tls-certificates={}", folder.0.display());
    let Some(server) = server::nbdkit(&["--tls=require", &path, "memory", "16M"]) else { return };
    let (mut client, socket) = before_tls(&server, "");
    let mut tunnel = Tunnel::new(&socket, &other.0, true);
    let mut byte = [0];
    assert_eq!(tunnel.output.read(&mut byte).ok(), Some(0), "no TLS stands");
    client.disconnected(NOW);
    assert!(client.export().is_none());
}

#[test]
fn servers_without_tls_are_refused_where_it_is_required() {
    let settings = Settings { tls: Tls::Required, ..Settings::of("") };
    let refused = |socket: Socket, settings: Settings<'_>| {
        let mut driver = Driver::new(Client::new(&Limits::DEFAULT, settings).expect("a client"));
        match driver.open(socket) {
            Err(End::Fatal(Fatal::TlsRefused(_))) => {}
            other => panic!("{other:?}"),
        }
    };
    if let Some(server) = server::nbdkit(&["memory", "16M"]) {
        refused(server.socket(), settings);
    }
    if let Some(server) = server::qemu_nbd(SIZE, &[]) {
        refused(server.socket(), settings);
    }
    if let Some(server) = server::nbd_server(SIZE, "") {
        refused(server.socket(), Settings { export: "disk", ..settings });
    }
}
