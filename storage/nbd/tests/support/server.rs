//! The NBD servers of the distribution, each in a process of its own that ends with the test.

use super::Socket;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A folder that goes with its owner.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nbd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.0.join(name);
        let file = fs::File::create(&path).expect("a file");
        file.set_len(size).expect("its size");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

enum Process {
    Child(Child),
    /// One that has made itself nobody's child; its number is in this file.
    Daemon(PathBuf),
}

enum Address {
    Unix(PathBuf),
    Tcp(u16),
}

/// A running server.
pub(crate) struct Server {
    process: Process,
    address: Address,
    pub(crate) folder: Folder,
}

impl Server {
    /// Wait until `socket()` succeeds.
    fn wait(self) -> Self {
        let begin = Instant::now();
        while self.try_socket().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    fn try_socket(&self) -> Option<Socket> {
        match &self.address {
            Address::Unix(path) => Socket::unix(path).ok(),
            Address::Tcp(port) => Socket::tcp(*port).ok(),
        }
    }

    /// As other programs name an export of it.
    pub(crate) fn uri(&self, export: &str) -> String {
        match &self.address {
            Address::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            Address::Tcp(port) => format!("nbd://127.0.0.1:{port}/{export}"),
        }
    }

    pub(crate) fn socket(&self) -> Socket {
        self.try_socket().expect("the server listens")
    }

    /// End it without a farewell.
    pub(crate) fn kill(&mut self) {
        match &mut self.process {
            Process::Child(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Daemon(file) => {
                let number = fs::read_to_string(file).unwrap_or_default();
                let _ = Command::new("kill").arg(number.trim()).status();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Start `program`; `None`, said aloud, when it is not installed. Where everything must be, that is a failure.
fn start(program: &str, arguments: &[String], folder: &Folder) -> Option<Child> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&folder.0).stdin(Stdio::null()).stdout(Stdio::null());
    if std::env::var_os("NBD_SERVER_WORDS").is_none() {
        command.stderr(Stdio::null());
    }
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let required = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!required, "{program} is not installed, and CI=true asks for it");
            println!("SKIPPED: {program} is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_string()).collect()
}

/// `nbdkit` with these arguments behind its own, on a Unix socket.
pub(crate) fn nbdkit(arguments: &[&str]) -> Option<Server> {
    let folder = Folder::new();
    let socket = folder.0.join("socket");
    let mut all = words(&["-f", "--exit-with-parent", "-U"]);
    all.push(socket.display().to_string());
    all.extend(words(arguments));
    let child = start("nbdkit", &all, &folder)?;
    Some(Server { process: Process::Child(child), address: Address::Unix(socket), folder }.wait())
}

/// `qemu-nbd` over a raw file of this size, on a Unix socket.
pub(crate) fn qemu_nbd(size: u64, arguments: &[&str]) -> Option<Server> {
    let folder = Folder::new();
    let socket = folder.0.join("socket");
    let address = ["-k", &socket.display().to_string()].map(str::to_string);
    let child = start_qemu_nbd(size, &address, arguments, &folder)?;
    Some(Server { process: Process::Child(child), address: Address::Unix(socket), folder }.wait())
}

/// The same on a loopback port, which is the only way it has TLS.
pub(crate) fn qemu_nbd_tcp(size: u64, arguments: &[&str]) -> Option<Server> {
    let folder = Folder::new();
    let port = free_port();
    let address = ["-b", "127.0.0.1", "-p", &port.to_string()].map(str::to_string);
    let child = start_qemu_nbd(size, &address, arguments, &folder)?;
    Some(Server { process: Process::Child(child), address: Address::Tcp(port), folder }.wait())
}

fn start_qemu_nbd(size: u64, address: &[String], arguments: &[&str], folder: &Folder) -> Option<Child> {
    let disk = folder.file("disk", size);
    let mut all = words(&["--persistent", "--shared=4", "--format=raw", "--discard=unmap"]);
    all.extend_from_slice(address);
    all.extend(words(arguments));
    all.push(disk.display().to_string());
    start("qemu-nbd", &all, folder)
}

/// `nbd-server` with an export `disk` of this size and these lines in its section, on a loopback port.
pub(crate) fn nbd_server(size: u64, lines: &str) -> Option<Server> {
    nbd_server_with(size, "", lines)
}

/// The same with more lines in the generic section.
pub(crate) fn nbd_server_with(size: u64, generic: &str, lines: &str) -> Option<Server> {
    let folder = Folder::new();
    let disk = folder.file("disk", size);
    let port = free_port();
    let configuration = format!(
        "[generic]\nlistenaddr = 127.0.0.1\nport = {port}\nallowlist = true\n{generic}\n[disk]\nexportname = {}\n{lines}\n",
        disk.display()
    );
    let path = folder.0.join("configuration");
    fs::write(&path, configuration).expect("a configuration");
    let number = folder.0.join("number");
    let arguments = ["-C", &path.display().to_string(), "-p", &number.display().to_string()];
    // It forks; what was started ends at once. Kept in the foreground it would serve one connection at a time.
    start("nbd-server", &words(&arguments), &folder)?.wait().expect("it forks");
    let server = Server { process: Process::Daemon(number), address: Address::Tcp(port), folder };
    Some(server.wait())
}

/// Run a program to its end; tells what it said, or `None` when it is not installed.
pub(crate) fn run(program: &str, arguments: &[&str], folder: &Folder) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&folder.0).stdin(Stdio::null());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let required = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!required, "{program} is not installed, and CI=true asks for it");
            println!("SKIPPED: {program} is not installed");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {said}{complained}");
    Some(said.into_owned())
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
