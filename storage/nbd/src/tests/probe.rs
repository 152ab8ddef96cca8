//! Asking about an export without entering it.

use crate::testing::{Disk, Session, Settings, option_reply_bytes};
use crate::wire::{option, option_reply};
use crate::{BlockSizes, ClientError, Facts, Fatal, Probe, Refusal};
use core::time::Duration;
use kernel_runtime::Instant;

const TIME: Duration = Duration::from_secs(10);

fn probe(export: &str) -> Probe {
    Probe::new(Instant::ZERO, export, TIME).expect("sound")
}

/// Ask a session, byte by byte or all at once.
fn ask(probe: &mut Probe, session: &mut Session, step: usize) -> Result<Facts, Fatal> {
    for _ in 0..10 {
        while let Some(bytes) = probe.poll_transmit() {
            let count = bytes.len();
            session.receive(bytes);
            probe.transmitted(count);
        }
        let output = core::mem::take(&mut session.output);
        let mut rest = &output[..];
        while !rest.is_empty() {
            let space = probe.space();
            let count = space.len().min(rest.len()).min(step);
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            if let Some(facts) = probe.received(count)? {
                return Ok(facts);
            }
        }
    }
    panic!("nothing was told");
}

#[test]
fn size_and_flags_are_told_and_a_farewell_is_said() {
    let sizes = BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 20 };
    let settings = Settings { block_sizes: Some(sizes), ..Settings::default() };
    for step in [1, usize::MAX] {
        let mut session = Session::new(&settings, &Disk::new(12288));
        let mut probe = probe("disk");
        let facts = ask(&mut probe, &mut session, step).expect("sound");
        assert_eq!((facts.size, facts.flags, facts.block_sizes), (Some(12288), settings.flags, Some(sizes)));
        assert_eq!((&*facts.name, &*facts.description), ("disk", "in memory"));
        assert_eq!(probe.handle_timeout(super::at(60_000_000)), Ok(()));
        session.receive(probe.poll_transmit().expect("a farewell"));
        assert!(session.has_ended() && session.export().is_none());
        session.assert_obeyed();
    }
}

#[test]
fn a_size_of_nothing_is_no_size() {
    let settings = Settings { info_size: false, ..Settings::default() };
    let mut session = Session::new(&settings, &Disk::new(12288));
    let facts = ask(&mut probe("disk"), &mut session, 7).expect("sound");
    assert_eq!((facts.size, facts.flags), (None, settings.flags));
}

#[test]
fn what_cannot_be_told_is_refused() {
    let refused = |reason| Err(Fatal::Refused { option: option::INFO, reason });
    let mut session = Session::new(&Settings::default(), &Disk::new(512));
    assert_eq!(ask(&mut probe("other"), &mut session, 7), refused(Refusal::UnknownExport));
    let mut session = Session::new(&Settings { go: false, ..Settings::default() }, &Disk::new(512));
    let mut unknown = probe("disk");
    assert_eq!(ask(&mut unknown, &mut session, 7), refused(Refusal::Unsupported));
    assert!(!unknown.remark().is_empty());
    let mut session = Session::new(&Settings::default(), &Disk::new(512));
    session.output.extend(option_reply_bytes(option::INFO, option_reply::ACK, &[]));
    assert_eq!(ask(&mut probe("disk"), &mut session, 7), Err(Fatal::ExportInfo));
    assert_eq!(probe("disk").handle_timeout(super::at(10_000_000)), Err(Fatal::HandshakeTimeout));
    let long = "n".repeat(4097);
    assert_eq!(Probe::new(Instant::ZERO, &long, TIME).err(), Some(ClientError::NameTooLong));
}
