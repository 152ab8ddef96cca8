//! What went over a wire, both ways: tcpdump's recording, and questions to it.

use super::frame;
use image_launch::net::{Net, Wire};
use image_launch::process::Process;
use image_launch::scratch::Scratch;
use image_launch::wait;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A recording that goes on.
pub(crate) struct Recording {
    tcpdump: Process,
    file: PathBuf,
}

/// All frames of a recording.
pub(crate) struct Frames(Vec<Vec<u8>>);

impl Recording {
    /// Records every frame on `wire` from now on.
    pub(crate) fn start(net: &Net, scratch: &Scratch, wire: Wire) -> Self {
        let file = scratch.file(&format!("{}.pcap", wire.name()));
        let mut command = net.command("tcpdump");
        command.args([
            "-i",
            wire.name(),
            "-Z",
            "root",
            "--immediate-mode",
            "-U",
            "-B",
            "65536",
            "-s",
            "0",
            "-w",
        ]);
        command.arg(&file);
        let log = scratch.file(&format!("{}.tcpdump", wire.name()));
        let mut tcpdump = Process::start("tcpdump", command, &log).unwrap();
        wait::until("tcpdump", LIMIT, || {
            tcpdump.must_run()?;
            Ok(tcpdump.output().contains("listening on").then_some(()))
        })
        .unwrap();
        Self { tcpdump, file }
    }

    /// Ends the recording; none of its frames may have been lost.
    pub(crate) fn finish(&mut self) -> Frames {
        // Whatever is still on its way arrives within this.
        std::thread::sleep(Duration::from_millis(500));
        self.tcpdump.stop();
        let said = self.tcpdump.output();
        assert!(said.contains("0 packets dropped by kernel"), "the recording has holes: {said}");
        Frames(parse(&fs::read(&self.file).unwrap()))
    }
}

impl Frames {
    /// Whether any frame contains `bytes`.
    pub(crate) fn carries(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|frame| frame.windows(bytes.len()).any(|window| window == bytes))
    }

    /// How many frames were sent by `mac`.
    pub(crate) fn frames_from(&self, mac: &str) -> usize {
        self.from(mac).count()
    }

    /// How many frames sent by `mac` give `address` as that of their sender: an IPv4 packet or an ARP message.
    pub(crate) fn claims_of(&self, address: Ipv4Addr, mac: &str) -> usize {
        let source = |frame: &&Vec<u8>| match frame.get(12..14) {
            Some([0x08, 0x00]) => frame.get(26..30) == Some(&address.octets()),
            Some([0x08, 0x06]) => frame.get(28..32) == Some(&address.octets()),
            _ => false,
        };
        self.from(mac).filter(source).count()
    }

    /// How many frames sent by `mac` accept a TCP connection to `port`.
    pub(crate) fn opened(&self, port: u16, mac: &str) -> usize {
        let accepts = |frame: &&Vec<u8>| {
            frame.get(12..14) == Some(&[0x08, 0x00])
                && frame.get(23) == Some(&6)
                && frame.get(34..36) == Some(&port.to_be_bytes())
                && frame.get(47).is_some_and(|flags| flags & 0x12 == 0x12)
        };
        self.from(mac).filter(accepts).count()
    }

    fn from(&self, mac: &str) -> impl Iterator<Item = &Vec<u8>> {
        let mac = frame::mac(mac);
        self.0.iter().filter(move |frame| frame.get(6..12) == Some(&mac))
    }
}

/// The frames of a file in the classic pcap format, as tcpdump writes it on this machine.
fn parse(file: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| file.get(at..at + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    assert_eq!(word(0), Some(0xa1b2_c3d4), "not a recording");
    let (mut frames, mut at) = (Vec::new(), 24);
    while let Some(length) = word(at + 8) {
        let start = at + 16;
        let end = start + usize::try_from(length).unwrap();
        frames.push(file[start..end].to_vec());
        at = end;
    }
    frames
}

#[test]
fn a_recording_is_read_frame_by_frame() {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1];
    file.extend([0; 20]);
    for frame in [b"abc".as_slice(), b"defgh"] {
        file.extend([0; 8]);
        file.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
        file.extend([0; 4]);
        file.extend(frame);
    }
    assert_eq!(parse(&file), [b"abc".to_vec(), b"defgh".to_vec()]);
}
