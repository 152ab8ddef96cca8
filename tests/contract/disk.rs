//! A disk, all the way: the storage service has it, the appliance exposes it, the agent's host logs in and gives it to a
//! Linux guest, which reads and writes it, and lets go of it again.

use crate::backend::Guest;
use crate::parent::{LIMIT, Parent};
use crate::states::{create, done};
use agent_protocol::{Action, Failure, Instance, Outcome, State, Volume};
use image_launch::disk::{NBD, NbdServer, Pattern, Server};
use image_launch::stage::IQN;
use image_launch::{api, process, wait};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The disk's size, and how much of it the guest copies, and where to, in bytes.
const SIZE: u64 = 4 << 20;
const COPIED: usize = 64 << 10;
const PLACE: usize = 1 << 20;

/// The image of a Linux that says what disks it is given.
pub(crate) fn linux() -> Guest {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let modules = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"];
    let built = crate::initramfs::Guest::small(cache, "contract", include_bytes!("guest.sh"), &modules);
    let command_line = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr".into();
    Guest { name: "linux", kernel: built.kernel, initrd: Some(built.initrd), command_line, memory: 160 }
}

/// A disk of known content behind a storage service of its own.
struct Served {
    pattern: Pattern,
    server: NbdServer,
}

impl Served {
    fn start(parent: &Parent) -> Self {
        let scratch = &parent.stage.scratch;
        let pattern = Pattern::write(scratch.file("served.raw"), 6, SIZE).unwrap();
        let server = NbdServer::start(&parent.stage.net, scratch, &Server::nbdkit(), pattern.path(), NBD + 5);
        Self { pattern, server: server.unwrap() }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.pattern.path()).unwrap()
    }
}

/// The whole way there and back.
pub(crate) fn there_and_back(parent: &Parent) {
    let served = Served::start(parent);
    let before = served.bytes();
    let linux = done(parent.act("linux", create("linux", true)));
    let deaf = done(parent.act("deaf", create("deaf", true)));
    let says = |text: &str| {
        let uuid = linux.uuid.to_string();
        wait::until(format!("the guest saying {text}"), LIMIT, || {
            let console = parent.native.console(&uuid);
            Ok(console.lines().any(|line| line.starts_with(&format!("guest: {text}"))).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", parent.native.console(&uuid), parent.log()));
    };
    says("up");

    expose(parent, &served, &[&linux, &deaf]);
    let attached = done(parent.act("linux", attach()));
    assert_eq!(attached.volumes.len(), 1, "{attached:?}");
    says(&format!("disk of {} sectors", SIZE / 512));
    says(&format!("read {}", sha256(&parent.stage.scratch.file("first"), &before[..COPIED])));
    says("written");
    // What the guest wrote has come to where the disk is, and nothing else has changed.
    let mut wanted = before.clone();
    wanted.copy_within(..COPIED, PLACE);
    assert!(served.bytes() == wanted, "the storage service has other bytes than the guest wrote");
    assert_eq!(withdraw(parent), 409, "it is in use");

    let detached = done(parent.act("linux", detach(60_000)));
    assert!(detached.volumes.is_empty(), "{detached:?}");
    says("gone");

    // A guest that does not let go of a disk has it, whatever it was asked.
    done(parent.act("deaf", attach()));
    let outcome = parent.act("deaf", detach(1500));
    assert!(matches!(outcome, Outcome::Failed { code: Failure::GuestDidNotRelease, .. }), "{outcome:?}");
    let still = parent.find("deaf").unwrap();
    assert_eq!((still.volumes.len(), still.state), (1, State::Running), "{still:?}");
    assert_eq!(withdraw(parent), 409, "it is in use");
    done(parent.act("deaf", Action::Terminate {}));
    let gone = wait::until("the target being free", LIMIT, || Ok((withdraw(parent) == 204).then_some(())));
    gone.unwrap();
    done(parent.act("linux", Action::Terminate {}));
}

fn name() -> String {
    format!("{IQN}:served")
}

fn attach() -> Action {
    let (volume, iqn) = ("served".parse().unwrap(), name().parse().unwrap());
    Action::VolumeAttach { volume: Volume { volume, iqn, lun: 0, read_only: false } }
}

fn detach(timeout_ms: u32) -> Action {
    Action::VolumeDetach { volume: "served".parse().unwrap(), timeout_ms }
}

/// Has the appliance expose the disk to those who may have it.
fn expose(parent: &Parent, served: &Served, who: &[&Instance]) {
    let initiators: Vec<_> = who.iter().map(|one| one.initiator.clone().unwrap().to_string()).collect();
    let body = json!({ "iqn": name(), "lun": 0, "volume": served.server.uri(), "initiators": initiators });
    let answer = api::ask(&parent.stage.net, "PUT", "/v1/targets/served", Some(&body)).unwrap();
    assert!([200, 201].contains(&answer.status), "{answer:?}");
}

/// Asks the appliance to withdraw it; the status.
fn withdraw(parent: &Parent) -> u16 {
    api::ask(&parent.stage.net, "DELETE", "/v1/targets/served", None).unwrap().status
}

/// The digest of some bytes, as the guest's tool tells it.
fn sha256(file: &PathBuf, bytes: &[u8]) -> String {
    std::fs::write(file, bytes).unwrap();
    let mut sum = process::command("sha256sum");
    sum.arg(file);
    process::check(sum, LIMIT).unwrap().split(' ').next().unwrap().to_string()
}
