//! The Linux guest under load, and what it tells.

use super::told::{Floor, Port};
use crate::linux::initramfs::Guest;
use image_launch::machine::{Board, Machine, Spec};
use image_launch::net::Wire;
use image_launch::stage::{IQN, Stage};
use image_launch::wait;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// From the start of the guest to its first sync, on a busy machine without virtualisation.
const START: Duration = Duration::from_secs(240);
/// For the last reads and the last sync.
const END: Duration = Duration::from_secs(120);

/// A virtual machine with Debian's kernel whose only program is `guest-load`.
pub(crate) struct LinuxGuest {
    machine: Machine,
    port: Port,
    pub(crate) floor: Floor,
    /// How many syncs it told of.
    pub(crate) syncs: u64,
    /// The last figures it told.
    status: String,
    /// How it ended.
    pub(crate) end: Option<Result<String, String>>,
}

impl LinuxGuest {
    /// Boots it and waits until it works on disk 0.
    pub(crate) fn start(stage: &Stage) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_guest-load"));
        let guest = Guest::with_program(Path::new(env!("CARGO_TARGET_TMPDIR")), Some(program));
        let (portal, iqn) = (stage.net.portal(), format!("{IQN}:disk0"));
        let command_line = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr clearcpuid=erms,fsrm \
             phase=load ip={}/24 portal={portal} iqn={iqn}",
            Wire::Host.address(3)
        );
        let board = Board::Q35;
        let socket = stage.scratch.file("load.port");
        let arguments = [
            "-no-reboot",
            "-initrd",
            guest.initrd.to_str().unwrap(),
            "-netdev",
            &stage.net.guest_netdev(),
            "-device",
            &board.device("net", "netdev=guest,mac=52:54:00:77:00:03"),
            "-device",
            &board.device("rng", ""),
            "-device",
            "virtio-serial-pci",
            "-chardev",
            &format!("socket,id=load,path={},server=on,wait=off", socket.display()),
            "-device",
            "virtserialport,chardev=load,name=load",
        ];
        let spec = Spec {
            name: "guest".into(),
            board,
            memory: 384,
            kernel: guest.kernel,
            command_line,
            arguments: arguments.map(str::to_string).to_vec(),
        };
        let machine = Machine::start(&stage.net, &stage.scratch, &spec).unwrap();
        let port = wait::until("the guest's port", START, || Ok(UnixStream::connect(&socket).ok())).unwrap();
        let (port, floor) = (Port::new(port), Floor::new());
        let mut guest = Self { machine, port, floor, syncs: 0, status: String::new(), end: None };
        let start = Instant::now();
        while guest.syncs < 3 {
            guest.must_go_on_for(Duration::from_millis(100), stage);
            assert!(start.elapsed() < START, "{}", guest.report(stage));
        }
        guest
    }

    /// Takes in what it tells, so long; it must not have failed.
    pub(crate) fn must_go_on_for(&mut self, time: Duration, stage: &Stage) {
        if !self.goes_on_for(time) {
            panic!("{}", self.report(stage));
        }
    }

    /// Takes in what it tells, so long, and answers whether it still works.
    pub(crate) fn goes_on_for(&mut self, time: Duration) -> bool {
        self.listen(time);
        self.end.is_none() && self.machine.process().ended().unwrap().is_none() && !self.has_failed()
    }

    /// Tells it to stop, and answers its last figures; it must have found everything right.
    pub(crate) fn stop(&mut self, stage: &Stage) -> String {
        self.port.stream.write_all(b"stop\n").unwrap();
        let start = Instant::now();
        while self.end.is_none() {
            self.listen(Duration::from_millis(100));
            assert!(start.elapsed() < END && !self.has_failed(), "{}", self.report(stage));
        }
        let Some(Ok(figures)) = self.end.clone() else { panic!("{}", self.report(stage)) };
        // It logs out, and looks for errors in its kernel's log.
        let ended = self.machine.wait_for("guest: done", END);
        ended.unwrap_or_else(|error| panic!("{error}\n{}", self.report(stage)));
        assert!(!stage.appliance.has_panicked(), "{}", self.report(stage));
        figures
    }

    /// Ends it without a word.
    pub(crate) fn die(&mut self) {
        self.machine.process().stop();
        // What it told before is still in the socket.
        self.listen(Duration::from_millis(200));
    }

    fn has_failed(&self) -> bool {
        self.machine.console().contains("guest: FAILED")
    }

    fn report(&self, stage: &Stage) -> String {
        format!(
            "the guest: {:?} after {}\n{}\nthe appliance:\n{}",
            self.end,
            self.status,
            self.machine.tail(),
            image_launch::process::last_lines(&stage.appliance.console(), 40)
        )
    }

    fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            for line in self.port.lines(left) {
                self.take(&line);
            }
        }
    }

    fn take(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "floor" => {
                self.syncs += 1;
                self.floor.raise(rest);
            }
            "status" => self.status = rest.to_string(),
            "done" => self.end = Some(Ok(rest.to_string())),
            "failed" => self.end = Some(Err(rest.to_string())),
            other => panic!("the guest said {other}"),
        }
    }
}
