//! The other end of this package as a server on a socket, for other clients to talk to.

use super::server::Folder;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use storage_nbd::testing::{Disk, Session, Settings, Shape};

/// A server that executes each command at once, with replies in pieces. It listens for as long as the test runs.
pub(crate) struct Service {
    pub(crate) disk: Arc<Mutex<Disk>>,
    pub(crate) violations: Arc<Mutex<Vec<String>>>,
    pub(crate) folder: Folder,
}

impl Service {
    pub(crate) fn start(settings: Settings, size: usize) -> Self {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.0.join("socket")).expect("a socket");
        let disk = Arc::new(Mutex::new(Disk::new(size)));
        let violations = Arc::new(Mutex::new(Vec::new()));
        let (served, noted) = (Arc::clone(&disk), Arc::clone(&violations));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (settings, disk, violations) =
                    (settings.clone(), Arc::clone(&served), Arc::clone(&noted));
                thread::spawn(move || serve(stream, &settings, &disk, &violations));
            }
        });
        Self { disk, violations, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.0.join("socket")
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.path().display())
    }
}

fn serve(mut stream: UnixStream, settings: &Settings, disk: &Mutex<Disk>, violations: &Mutex<Vec<String>>) {
    let mut session = Session::new(settings, &*disk.lock().expect("nobody panicked"));
    let mut input = vec![0; 1 << 18];
    let mut seed = 1;
    loop {
        if stream.write_all(&core::mem::take(&mut session.output)).is_err() || session.has_ended() {
            break;
        }
        let Ok(count @ 1..) = stream.read(&mut input) else { break };
        session.receive(&input[..count]);
        session.fence(true);
        while !session.waiting.is_empty() {
            seed += 1;
            session.execute(&mut *disk.lock().expect("nobody panicked"), 0, Shape::Pieces(seed));
        }
    }
    violations.lock().expect("nobody panicked").append(&mut session.violations);
}
