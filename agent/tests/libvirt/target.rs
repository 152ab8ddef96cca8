//! A target for QEMU's own initiator: one disk of zeros whose size can change, and as much of iSCSI (RFC 7143) and SCSI as
//! that takes. It remembers who logged in and counts who is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What anybody may see of the target.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) bytes: AtomicU64,
    pub(crate) sessions: AtomicUsize,
    pub(crate) initiators: Mutex<Vec<String>>,
}

/// The target; it serves as long as the test program runs.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
}

const BLOCK: u64 = 512;

impl Target {
    pub(crate) fn new(bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen { bytes: AtomicU64::new(bytes), ..Seen::default() });
        let shared = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = shared.clone();
                std::thread::spawn(move || {
                    seen.sessions.fetch_add(1, Ordering::SeqCst);
                    let _ = serve(stream, &seen);
                    seen.sessions.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, seen }
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

fn serve(mut stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut stat = 1_u32;
    loop {
        let mut head = [0; 48];
        stream.read_exact(&mut head)?;
        let length = number(&[0, head[5], head[6], head[7]]) as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        stream.read_exact(&mut data)?;
        let immediate = head[0] & 0x40 != 0;
        let next = number(&head[24..28]).wrapping_add(u32::from(!immediate));
        let mut answer = [0; 48];
        answer[16..20].copy_from_slice(&head[16..20]);
        answer[24..28].copy_from_slice(&stat.to_be_bytes());
        answer[28..32].copy_from_slice(&next.to_be_bytes());
        answer[32..36].copy_from_slice(&next.wrapping_add(32).to_be_bytes());
        let mut body = Vec::new();
        answer[1] = 0x80;
        match head[0] & 0x3f {
            0x03 => {
                let keys = String::from_utf8_lossy(&data[..length]).into_owned();
                let name = keys.split('\0').find_map(|key| key.strip_prefix("InitiatorName="));
                seen.initiators.lock().unwrap().extend(name.map(str::to_owned));
                answer[0] = 0x23;
                answer[1] = head[1];
                answer[8..14].copy_from_slice(&head[8..14]);
                answer[15] = 1;
                let digests = b"HeaderDigest=None\0DataDigest=None\0".as_slice();
                body = if head[1] >> 2 & 3 == 0 { b"AuthMethod=None\0" } else { digests }.to_vec();
            }
            0x00 => answer[0] = 0x20,
            0x02 => answer[0] = 0x22,
            0x06 => answer[0] = 0x26,
            _ => command(&head, &mut answer, &mut body, seen),
        }
        // A NOP-Out without a tag wants no answer.
        if head[0] & 0x3f == 0 && head[16..20] == [0xff; 4] {
            continue;
        }
        stat = stat.wrapping_add(1);
        answer[5..8].copy_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        body.resize(body.len().next_multiple_of(4), 0);
        stream.write_all(&[&answer[..], &body].concat())?;
        if head[0] & 0x3f == 0x06 {
            return Ok(());
        }
    }
}

/// A SCSI command. What it reads comes with its status in one PDU.
fn command(head: &[u8; 48], answer: &mut [u8; 48], body: &mut Vec<u8>, seen: &Seen) {
    let cdb = &head[32..48];
    let blocks = seen.bytes.load(Ordering::SeqCst) / BLOCK;
    let read = |count: u32| Some(vec![0; count as usize * BLOCK as usize]);
    let data = match cdb[0] {
        0x00 => Some(Vec::new()),
        0x12 if cdb[1] & 1 == 0 => {
            Some([&[0, 0, 5, 2, 31, 0, 0, 2][..], b"CORBEL  TEST            1   "].concat())
        }
        0x12 if cdb[2] == 0 => Some(vec![0, 0, 0, 1, 0]),
        0x1a => Some(vec![3, 0, 0, 0]),
        0x25 => Some([(blocks as u32 - 1).to_be_bytes(), [0, 0, 2, 0]].concat()),
        0x9e => Some([&(blocks - 1).to_be_bytes()[..], &[0, 0, 2, 0], &[0; 20]].concat()),
        0x28 => read(u32::from(cdb[7]) << 8 | u32::from(cdb[8])),
        0x88 => read(number(&cdb[10..14])),
        0xa0 => Some([&[0, 0, 0, 8][..], &[0; 12]].concat()),
        _ => None,
    };
    let expected = number(&head[20..24]);
    match data {
        Some(data) if !data.is_empty() => {
            answer[0] = 0x25;
            answer[1] = 0x81;
            *body = data[..data.len().min(expected as usize)].to_vec();
            let left = expected - body.len() as u32;
            if left > 0 {
                answer[1] |= 2;
                answer[44..48].copy_from_slice(&left.to_be_bytes());
            }
        }
        Some(_) => answer[0] = 0x21,
        None => {
            answer[0] = 0x21;
            answer[3] = 2;
            // An illegal request: the command is not known.
            *body = vec![0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
        }
    }
}
