//! A libvirtd that means harm, or is ill.

use super::super::session::{Session, concerned};
use super::*;
use agent_protocol::Uuid;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

const STATE: i32 = 212;
const LONG: Duration = Duration::from_secs(10);

/// Somebody who listens where libvirtd should.
struct Daemon {
    folder: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn new(act: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("corbel-rpc-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("s")).unwrap();
        let thread = std::thread::spawn(move || act(listener.accept().unwrap().0));
        Self { folder, thread: Some(thread) }
    }

    fn link(&self, within: Duration) -> Link {
        Link::connect(&self.folder.join("s"), Instant::now() + within).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let outcome = self.thread.take().unwrap().join();
        std::fs::remove_dir_all(&self.folder).unwrap();
        assert!(outcome.is_ok() || std::thread::panicking());
    }
}

fn message(words: [u32; 6], payload: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u32((HEAD + payload.len()) as u32);
    for word in words {
        writer.u32(word);
    }
    writer.fixed(payload).bytes().to_vec()
}

/// An answer to the first call.
fn answer(payload: &[u8]) -> Vec<u8> {
    message([REMOTE, VERSION, STATE as u32, REPLY, 1, OK], payload)
}

/// One message from the other end: its six words.
fn read(stream: &mut UnixStream) -> Option<[u32; 6]> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).ok()?;
    let mut reader = Reader::new(&head);
    let length = reader.u32().unwrap() as usize;
    stream.read_exact(&mut vec![0; length - HEAD]).ok()?;
    Some(std::array::from_fn(|_| reader.u32().unwrap()))
}

/// What a call makes of a daemon that answers with these bytes and then closes.
fn against(bytes: Vec<u8>) -> Answer<Vec<u8>> {
    let daemon = Daemon::new(move |mut stream| {
        read(&mut stream);
        let _ = stream.write_all(&bytes);
    });
    daemon.link(LONG).call(STATE, &Writer::default())
}

#[test]
fn an_answer_is_taken_whatever_is_told_before_it() {
    let mut bytes = message([REMOTE, VERSION, 318, MESSAGE, 0, OK], b"news");
    bytes.extend(answer(b"abcd"));
    assert_eq!(against(bytes).unwrap(), b"abcd");
}

#[test]
fn an_error_keeps_its_number_and_some_of_its_words() {
    let mut writer = Writer::default();
    writer.i32(42).i32(10).u32(1).string(&"x".repeat(5000)).i32(2);
    let error = message([REMOTE, VERSION, STATE as u32, REPLY, 1, ERROR], writer.bytes());
    match against(error) {
        Err(RpcError::Refused { code: 42, message }) => assert_eq!(message.len(), WORDS_MAX),
        other => panic!("{other:?}"),
    }
    let half = message([REMOTE, VERSION, STATE as u32, REPLY, 1, ERROR], &[0, 0, 0]);
    assert!(matches!(against(half), Err(RpcError::Malformed(_))));
}

#[test]
fn what_is_not_the_answer_to_the_call_is_no_answer() {
    for words in [
        [REMOTE, VERSION, STATE as u32, REPLY, 2, OK],
        [REMOTE, VERSION, STATE as u32, REPLY, 0, OK],
        [REMOTE, VERSION, 213, REPLY, 1, OK],
        [REMOTE, VERSION, STATE as u32, CALL, 1, OK],
        [REMOTE, VERSION, STATE as u32, 3, 1, OK],
        [REMOTE, VERSION, STATE as u32, 5, 1, OK],
        [REMOTE, VERSION, STATE as u32, REPLY, 1, 7],
        [REMOTE, 2, STATE as u32, REPLY, 1, OK],
        [0x2000_8087, VERSION, STATE as u32, REPLY, 1, OK],
    ] {
        let outcome = against(message(words, b""));
        assert!(matches!(outcome, Err(RpcError::Malformed(_))), "{words:x?}: {outcome:?}");
    }
}

#[test]
fn a_length_that_no_message_has_is_refused_before_the_rest_is_waited_for() {
    for length in [0, 4, 27, MESSAGE_MAX as u32 + 1, 16 << 20, u32::MAX] {
        let daemon = Daemon::new(move |mut stream| {
            read(&mut stream);
            stream.write_all(&length.to_be_bytes()).unwrap();
            // It keeps the connection, so that only a refusal ends the call early.
            let _ = stream.read(&mut [0]);
        });
        let began = Instant::now();
        let outcome = daemon.link(LONG).call(STATE, &Writer::default());
        assert!(matches!(outcome, Err(RpcError::Malformed(_))), "{length}: {outcome:?}");
        assert!(began.elapsed() < LONG / 2);
    }
}

#[test]
fn an_end_in_the_middle_is_an_end() {
    let whole = answer(b"abcd");
    for length in 0..whole.len() {
        assert!(matches!(against(whole[..length].to_vec()), Err(RpcError::Closed)), "{length}");
    }
}

#[test]
fn silence_and_dripping_and_chatter_all_end_at_the_deadline() {
    type Act = fn(UnixStream);
    let silent: Act = |mut stream| {
        while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
    };
    let dripping: Act = |mut stream| {
        for byte in answer(&[0; 4096]) {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let chatter: Act = |mut stream| {
        let pings = message([KEEPALIVE, VERSION, 1, MESSAGE, 0, OK], b"").repeat(100);
        let news = message([REMOTE, VERSION, 318, MESSAGE, 0, OK], &[0; 4096]).repeat(16);
        while stream.write_all(&news).is_ok() && stream.write_all(&pings).is_ok() {}
    };
    for act in [silent, dripping, chatter] {
        let daemon = Daemon::new(act);
        let began = Instant::now();
        let outcome = daemon.link(Duration::from_millis(300)).call(STATE, &Writer::default());
        assert!(matches!(outcome, Err(RpcError::Timeout)), "{outcome:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

#[test]
fn who_asks_whether_anybody_is_there_is_answered() {
    let daemon = Daemon::new(|mut stream| {
        read(&mut stream);
        stream.write_all(&message([KEEPALIVE, VERSION, PING as u32, MESSAGE, 0, OK], b"")).unwrap();
        assert_eq!(read(&mut stream), Some([KEEPALIVE, VERSION, PONG as u32, MESSAGE, 0, OK]));
        stream.write_all(&answer(b"")).unwrap();
    });
    daemon.link(LONG).call(STATE, &Writer::default()).unwrap();
}

#[test]
fn what_is_told_comes_out_whole_though_it_arrives_in_pieces() {
    let uuid = Uuid(0x1234);
    let mut payload = Writer::default();
    payload.i32(9).string("web").fixed(&uuid.0.to_be_bytes()).i32(3).i32(5).i32(0);
    let bytes = message([REMOTE, VERSION, 318, MESSAGE, 0, OK], payload.bytes());
    let (go, wait) = std::sync::mpsc::channel();
    let daemon = Daemon::new(move |mut stream| {
        stream.write_all(&bytes[..30]).unwrap();
        wait.recv().unwrap();
        stream.write_all(&bytes[30..]).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let mut link = daemon.link(LONG);
    assert_eq!(link.notice(Duration::from_millis(50), LONG).unwrap(), None);
    go.send(()).unwrap();
    let notice = link.notice(LONG, LONG).unwrap().unwrap();
    assert_eq!((notice.procedure, concerned(&notice)), (318, Some(uuid)));
    assert!(matches!(link.notice(Duration::from_millis(50), Duration::ZERO), Err(RpcError::Closed)));
}

/// A daemon that lets a session be opened and answers the next call with this.
fn opened(payload: Vec<u8>) -> (Daemon, Session) {
    let daemon = Daemon::new(move |mut stream| {
        for (serial, procedure, answer) in
            [(1, 66, vec![0, 0, 0, 1, 0, 0, 0, 0]), (2, 1, Vec::new()), (3, 0, payload)]
        {
            let Some([_, _, asked, ..]) = read(&mut stream) else { return };
            assert!(procedure == 0 || procedure == asked);
            let _ = stream.write_all(&message([REMOTE, VERSION, asked, REPLY, serial, OK], &answer));
        }
    });
    let session = Session::open(&daemon.folder.join("s"), "qemu:///system", Instant::now() + LONG).unwrap();
    (daemon, session)
}

#[test]
fn more_figures_than_were_sent_are_not_waited_or_reserved_for() {
    let domain = super::super::request::Domain { name: "a".into(), uuid: [7; 16], id: 1 };
    let mut one = Writer::default();
    one.u32(1).string("a").fixed(&[7; 16]).i32(1);
    for claimed in [2, 1000, u32::MAX] {
        let mut payload = Writer::default();
        payload.fixed(one.bytes()).u32(claimed).string("x").i32(4).u64(1);
        let (_daemon, mut session) = opened(payload.bytes().to_vec());
        assert!(matches!(session.figures(&domain, 1), Err(RpcError::Malformed(_))), "{claimed}");
    }
    let mut payload = Writer::default();
    payload.fixed(one.bytes()).u32(1).string("x").i32(9).u64(1);
    let (_daemon, mut session) = opened(payload.bytes().to_vec());
    assert!(session.figures(&domain, 1).is_err(), "a type that does not exist");
    let (_daemon, mut session) = opened(u32::MAX.to_be_bytes().to_vec());
    assert!(session.figures(&domain, 1).is_err());
}

#[test]
fn another_domain_than_was_asked_for_is_refused() {
    let mut payload = Writer::default();
    payload.string("a").fixed(&[7; 16]).i32(1);
    let (_daemon, mut session) = opened(payload.bytes().to_vec());
    assert!(matches!(session.look_up(Uuid(1)), Err(RpcError::Malformed(_))));
}

#[test]
fn nobody_there_is_told_at_once() {
    let path = std::env::temp_dir().join(format!("corbel-rpc-{}-none", std::process::id()));
    let outcome = Link::connect(&path, Instant::now() + LONG);
    assert!(matches!(outcome, Err(RpcError::Unreachable(_))));
}
