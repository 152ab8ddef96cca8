//! The engine on loopback sockets, a thread for each connection.

use crate::disk::{Answer, Disk, SIZE};
use kernel_runtime::Instant;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage_block::{Pool, Share};
use storage_iscsi::chap::{Access, Nonce, RANDOM};
use storage_iscsi::{
    Admission, Connection, Event, Limits, LogoutResponse, Outcome, Portal, Referenced, SessionType, Status,
    TargetRecord, Task, TaskManagementResponse,
};

pub(crate) const IQN: &str = "iqn.2026-01.dev.corbel:ram";
/// The largest piece of a transfer.
const PIECE: usize = 256 << 10;

/// A target that listens as long as this lives.
pub(crate) struct Target {
    address: SocketAddr,
    disk: Arc<Mutex<Vec<u8>>>,
}

impl Target {
    /// Open to everybody.
    pub(crate) fn start() -> Self {
        Self::guarded(None)
    }

    /// To be logged in to, and discovered, by those who can prove who they are.
    pub(crate) fn guarded(access: Option<Access>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let disk = Arc::new(Mutex::new(vec![0; SIZE]));
        let served = disk.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (disk, access) = (served.clone(), access.clone());
                std::thread::spawn(move || serve(&stream, address, disk, access));
            }
        });
        Self { address, disk }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn disk(&self) -> Vec<u8> {
        self.disk.lock().expect("the disk").clone()
    }
}

/// A write whose data is not all there.
struct Unfinished {
    at: usize,
    /// Bytes that the command asks for, and bytes that the initiator has of them.
    transfer: usize,
    length: usize,
    asked: usize,
    done: usize,
}

struct Session {
    connection: Connection,
    disk: Disk,
    share: Share,
    writes: HashMap<Task, Unfinished>,
    portal: SocketAddr,
    access: Option<Rc<Access>>,
    closed: bool,
}

fn serve(mut stream: &TcpStream, portal: SocketAddr, memory: Arc<Mutex<Vec<u8>>>, access: Option<Access>) {
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    let started = std::time::Instant::now();
    let mut session = Session {
        connection: Connection::new(&Limits::default(), Instant::ZERO),
        disk: Disk::new(memory),
        share: Pool::new(&[(PIECE, 160)]).share(usize::MAX >> 1),
        writes: HashMap::new(),
        portal,
        access: access.map(Rc::new),
        closed: false,
    };
    loop {
        while let Some(event) = session.connection.poll_event() {
            session.handle(event);
        }
        while let Some(bytes) = session.connection.poll_transmit() {
            let Ok(count) = stream.write(bytes) else { return };
            session.connection.transmitted(count);
        }
        while let Some(event) = session.connection.poll_event() {
            session.handle(event);
        }
        if session.closed {
            // The peer may not have read all yet: let it close.
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 1]);
            return;
        }
        let space = session.connection.space();
        assert!(!space.is_empty(), "this target answers at once, so that reading is never held up");
        let Ok(count) = stream.read(space) else { return };
        let now = Instant::from_micros(started.elapsed().as_micros() as u64);
        if count == 0 {
            return;
        }
        if let Err(fatal) = session.connection.received(now, count) {
            println!("connection dropped: {fatal}");
            return;
        }
    }
}

impl Session {
    fn handle(&mut self, event: Event) {
        match event {
            Event::Login => self.admit(),
            Event::LoggedIn => {}
            Event::SendTargets => {
                let portals = [Portal { address: self.portal, group_tag: 1 }];
                self.connection.answer_send_targets([TargetRecord { name: IQN, portals: &portals }]);
            }
            Event::Command(command) => {
                let length = command.expected_data_transfer_length as usize;
                match self.disk.execute(&command.cdb, command.lun) {
                    Answer::Data(data) => {
                        let whole = data.len();
                        for (offset, piece) in (0..).step_by(PIECE).zip(data.chunks(PIECE)) {
                            let mut buffer = self.share.take(piece.len()).expect("a buffer");
                            buffer.copy_from_slice(piece);
                            self.connection.send(command.task, offset, buffer);
                        }
                        self.connection.finish(command.task, Outcome::good(whole as u64));
                    }
                    Answer::Write { at, length: transfer } => {
                        let length = length.min(transfer);
                        self.connection.want(command.task, length as u32);
                        self.writes
                            .insert(command.task, Unfinished { at, transfer, length, asked: 0, done: 0 });
                        self.ask(command.task);
                    }
                    Answer::Sense(sense) => self.connection.finish(
                        command.task,
                        Outcome { status: 2, sense: &sense, transferred: 0, bidirectional_read: 0 },
                    ),
                }
            }
            Event::Received { task, offset, buffer } => {
                if let Some(write) = self.writes.get_mut(&task) {
                    self.disk.write(write.at + offset as usize, &buffer);
                    write.done += buffer.len();
                    drop(buffer);
                    self.ask(task);
                }
            }
            Event::TaskManagement(management) => {
                let response = match management.referenced {
                    Referenced::Task(task) => {
                        self.writes.remove(&task);
                        self.connection.abort(task);
                        TaskManagementResponse::FUNCTION_COMPLETE
                    }
                    Referenced::Nothing | Referenced::NotArrived => TaskManagementResponse::FUNCTION_COMPLETE,
                    Referenced::Answered | Referenced::Past | Referenced::Unknown => {
                        TaskManagementResponse::TASK_DOES_NOT_EXIST
                    }
                };
                self.connection.task_management_response(management.task, response);
            }
            Event::Dropped(task) => {
                self.writes.remove(&task);
            }
            Event::Logout(_) => self.connection.logout_response(LogoutResponse::Closed),
            Event::Close => self.closed = true,
        }
    }

    fn admit(&mut self) {
        let peer = self.connection.peer();
        let known = peer.session_type == SessionType::Discovery || peer.target == *IQN;
        let (tsih, portal_group_tag) = (NonZeroU16::MIN, 1);
        let asked = self.access.as_ref().filter(|access| !self.connection.has_proven(access));
        self.connection.admit(if let Some(access) = asked.filter(|_| known) {
            let mut random = [0; RANDOM];
            let source = std::fs::File::open("/dev/urandom").expect("randomness");
            (&source).read_exact(&mut random).expect("randomness");
            let nonce = Nonce::new(&random, [0x3c; 16]);
            Admission::Authenticate { access, nonce, portal_group_tag }
        } else if known {
            Admission::Accept { tsih, portal_group_tag }
        } else {
            Admission::Refuse(Status::NOT_FOUND)
        });
    }

    /// Give places for two more pieces of a write, or end it.
    fn ask(&mut self, task: Task) {
        let Some(write) = self.writes.get_mut(&task) else { return };
        if write.done == write.length {
            let transfer = write.transfer as u64;
            self.writes.remove(&task);
            self.connection.finish(task, Outcome::good(transfer));
            return;
        }
        while write.asked < write.length && write.asked < write.done + 2 * PIECE {
            let length = PIECE.min(write.length - write.asked);
            let buffer = self.share.take(length).expect("a buffer");
            let at = write.asked as u32;
            write.asked += length;
            self.connection.receive(task, at, buffer);
        }
    }
}
