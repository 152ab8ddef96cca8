//! Debian's open-iscsi, sg3-utils, multipath-tools and fio in a guest: what each tool prints, one disk over two paths of
//! which one is cut, an initiator that is killed, and a guest that is reset while it works.

use super::initramfs::Guest;
use crate::fixture::{script, stage_alone};
use crate::hostile::body;
use crate::kills::told::{Floor, Port};
use image_launch::disk::Server;
use image_launch::machine::{Board, Machine, Spec};
use image_launch::net::{self, Wire};
use image_launch::process::{self, Process};
use image_launch::stage::Stage;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// For each thing that the guest does, on a busy machine without virtualisation.
const LIMIT: Duration = Duration::from_secs(240);
/// The port of the second way, which is the test's to cut.
const SECOND: u16 = 3261;
const TRANSCRIPT: &str = include_str!("tools.txt");

/// How the logins of the guest to the locked target end: refused (24: the login was not authorized) without CHAP, with a wrong
/// secret and with another's name; good with each algorithm, one way and both; and given up by
/// the initiator (19) where the target proves itself wrongly.
const PROOFS: &[&str] = &["24", "24", "24", "0", "0", "0", "0", "0", "0", "0", "0", "19", "19"];

/// What the guest says of its logins.
fn proofs(console: &str) -> Vec<&str> {
    let lines = console.lines().filter_map(|line| line.strip_prefix("guest: proven "));
    lines.map(|line| line.split(':').next().unwrap_or_default()).collect()
}

/// A command of the transcript, and what it has to say.
struct Entry {
    line: usize,
    command: String,
    status: i32,
    lines: Vec<String>,
}

/// What the transcript asks for.
fn transcript(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if let Some(command) = text.strip_prefix("$ ") {
            entries.push(Entry { line, command: command.into(), status: 0, lines: Vec::new() });
        } else if !text.starts_with('#') && !text.is_empty() {
            let entry = entries.last_mut().expect("a command comes first");
            match text.strip_prefix("= ") {
                Some(status) => entry.status = status.parse().unwrap(),
                None => entry.lines.push(text.trim().to_string()),
            }
        }
    }
    entries
}

/// The transcript as the guest's shell reads it.
fn shell(entries: &[Entry]) -> String {
    entries.iter().fold(String::new(), |mut text, entry| {
        let _ = writeln!(text, "t '{}'", entry.command.replace('\'', "'\\''"));
        text
    })
}

/// What of the transcript the console does not show.
fn missing(entries: &[Entry], console: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rest = console;
    for entry in entries {
        let start = format!("guest: $ {}\n", entry.command);
        let Some(at) = rest.find(&start) else {
            wrong.push(format!("line {}: {} was not run", entry.line, entry.command));
            continue;
        };
        rest = &rest[at + start.len()..];
        let end = rest.find("guest: = ").unwrap_or(rest.len());
        let said: Vec<&str> = rest[..end].lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let status = rest[end..].lines().next().unwrap_or_default();
        if status != format!("guest: = {}", entry.status) || !alike(&entry.lines, &said) {
            let (said, wanted) = (said.join("\n    "), entry.lines.join("\n    "));
            wrong.push(format!(
                "line {}: {}\n    {said}\n    {status}\n  wanted:\n    {wanted}",
                entry.line, entry.command
            ));
        }
    }
    wrong
}

/// Whether the lines are those that are wanted.
fn alike(wanted: &[String], said: &[&str]) -> bool {
    match wanted.split_first() {
        None => said.is_empty(),
        Some((any, rest)) if any == "..." => (0..=said.len()).any(|skipped| alike(rest, &said[skipped..])),
        Some((line, rest)) => {
            said.split_first().is_some_and(|(first, more)| fits(line, first) && alike(rest, more))
        }
    }
}

/// Whether a line is as wanted, `*` being anything.
fn fits(wanted: &str, line: &str) -> bool {
    match wanted.split_once('*') {
        None => wanted == line,
        Some((head, tail)) => line.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|skipped| rest.get(skipped..).is_some_and(|rest| fits(tail, rest)))
        }),
    }
}

/// The second way to the target: whoever connects to it is connected to the target, until it is cut.
struct Way {
    process: Option<Process>,
}

impl Way {
    fn lay(stage: &Stage) -> Self {
        let mut socat = stage.net.command("socat");
        socat.arg(format!("TCP-LISTEN:{SECOND},bind={},fork,reuseaddr,nodelay", Wire::Host.here()));
        socat.arg(format!("TCP:{},nodelay", stage.net.portal()));
        let process = Process::start("socat", socat, &stage.scratch.file("way.log")).unwrap();
        Self { process: Some(process) }
    }

    /// Cuts all connections, and takes no more.
    fn cut(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop();
        }
    }
}

/// What the guest's load has told: how new each block must be at least.
struct Told {
    port: Port,
    floor: Floor,
    syncs: usize,
    end: Option<String>,
}

impl Told {
    fn open(socket: &Path) -> Self {
        let port = Port::new(UnixStream::connect(socket).unwrap());
        Self { port, floor: Floor::new(), syncs: 0, end: None }
    }

    /// Takes in what comes until there are so many syncs more, or the end.
    fn listen(&mut self, syncs: usize) {
        let (goal, start) = (self.syncs + syncs, Instant::now());
        while self.syncs < goal && self.end.is_none() {
            assert!(start.elapsed() < LIMIT, "{} syncs", self.syncs);
            for line in self.port.lines(Duration::from_millis(100)) {
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
            "done" | "failed" => self.end = Some(line.to_string()),
            _ => {}
        }
    }
}

/// The guest of this test, on its first boot or its second.
fn boot(stage: &Stage, entries: &[Entry], phase: &str, socket: &Path) -> Machine {
    let load = Path::new(env!("CARGO_BIN_EXE_guest-load"));
    let transcript = shell(entries);
    let files: [(&str, &[u8]); 2] =
        [("tools.sh", include_bytes!("tools.sh")), ("transcript", transcript.as_bytes())];
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let guest = Guest::with_tools(cache, &[load, Path::new("/usr/bin/fio")], &files);
    let (portal, iqn) = (stage.net.portal(), &stage.disks[0].iqn);
    let command_line = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr clearcpuid=erms,fsrm phase={phase} ip={}/24 \
         portal={portal} second={}:{SECOND} iqn={iqn} locked={}",
        Wire::Host.address(3),
        Wire::Host.here(),
        stage.disks[1].iqn
    );
    let board = Board::Q35;
    let mut arguments =
        vec!["-no-reboot".to_string(), "-initrd".into(), guest.initrd.to_str().unwrap().into()];
    for (option, value) in [
        ("-netdev", stage.net.guest_netdev()),
        ("-device", board.device("net", "netdev=guest,mac=52:54:00:77:00:03")),
        ("-device", board.device("rng", "")),
        ("-device", "virtio-serial-pci".into()),
        ("-chardev", format!("socket,id=load,path={},server=on,wait=off", socket.display())),
        ("-device", "virtserialport,chardev=load,name=load".into()),
    ] {
        arguments.extend([option.to_string(), value]);
    }
    let spec = Spec {
        name: format!("guest-{phase}"),
        board,
        memory: 640,
        kernel: guest.kernel,
        command_line,
        arguments,
    };
    Machine::start(&stage.net, &stage.scratch, &spec).unwrap()
}

#[test]
fn a_linux_guest_finds_all_tools_content_and_loses_nothing_when_paths_are_cut_and_it_is_reset() {
    let mut script = script(body(), 64 << 20, Server::QemuNbd);
    script.net = net::Options { guest: true, ..net::Options::default() };
    script.disks.push((1 << 20, Server::QemuNbd));
    let account = [
        ("user", "guest"),
        ("secret", "initiatorsecret"),
        ("target-user", "corbel"),
        ("target-secret", "targetsecret12"),
    ];
    script.config = account.map(|(key, value)| (format!("target.1.chap.0.{key}"), value.into())).to_vec();
    let (stage, _turn) = stage_alone(&script);
    let entries = transcript(TRANSCRIPT);
    let socket = stage.scratch.file("load.port");
    let mut way = Way::lay(&stage);
    let start = Instant::now();
    let mut guest = boot(&stage, &entries, "tools", &socket);
    let wait = |guest: &mut Machine, text: &str| {
        let found = guest.wait_for(text, LIMIT);
        let said =
            |error| format!("{error}\nappliance:\n{}", process::last_lines(&stage.appliance.console(), 40));
        let line = found.map_err(said).unwrap_or_else(|error| panic!("{error}"));
        println!("{:?}: {line}", start.elapsed());
        assert!(!guest.console().contains("guest: FAILED"), "{}", guest.tail());
    };
    wait(&mut guest, "guest: transcript begins");
    wait(&mut guest, "guest: transcript ends");
    let console = guest.console();
    let begin = console.find("guest: transcript begins").unwrap();
    let wrong = missing(&entries, &console[begin..].replace('\r', ""));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    wait(&mut guest, "guest: map");
    assert_eq!(proofs(&guest.console()), PROOFS);
    for round in ["connection", "daemon"] {
        wait(&mut guest, &format!("guest: cut {round}"));
        way.cut();
        wait(&mut guest, &format!("guest: mend {round}"));
        way = Way::lay(&stage);
        wait(&mut guest, &format!("guest: back {round}"));
        wait(&mut guest, &format!("guest: fio {round}"));
    }
    wait(&mut guest, "guest: fio full");
    let mut told = Told::open(&socket);
    wait(&mut guest, "guest: load begins");
    told.listen(10);
    assert_eq!(told.end, None);
    // The machine is gone from one moment to the next, and says nothing to the target: its sessions are still there when
    // the same initiator port comes back, with commands of before that are not done.
    guest.stop();
    let before = told.floor;
    before.must_be_in(&stage.disks[0].file);
    let mut guest = boot(&stage, &entries, "again", &socket);
    wait(&mut guest, "guest: load begins again");
    let mut told = Told::open(&socket);
    told.listen(10);
    told.port.stream.write_all(b"stop\n").unwrap();
    told.listen(usize::MAX / 2);
    let end = told.end.unwrap();
    assert!(end.starts_with("done"), "{end}");
    wait(&mut guest, "guest: done");
    before.must_be_in(&stage.disks[0].file);
    told.floor.must_be_in(&stage.disks[0].file);
    println!("{end}");
}

#[test]
fn a_transcript_knows_what_it_was_not_told() {
    let entries = transcript("# why\n$ a\nx *z\n...\nend\n\n$ b\n= 3\n");
    assert_eq!(shell(&entries), "t 'a'\nt 'b'\n");
    let good = "guest: $ a\nx y z\n1\n\n2\nend\nguest: = 0\nguest: $ b\nguest: = 3\n";
    assert_eq!(missing(&entries, good), Vec::<String>::new());
    for (from, to) in [("x y z", "x y"), ("end", "end\nmore"), ("= 3", "= 0"), ("$ b", "$ c"), ("x", "w\nx")]
    {
        assert_eq!(missing(&entries, &good.replacen(from, to, 1)).len(), 1, "{from}");
    }
}
