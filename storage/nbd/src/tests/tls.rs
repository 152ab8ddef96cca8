//! STARTTLS: nothing is said in clear behind it, and nothing else is taken for it.

use super::{drain, feed};
use crate::testing::{Disk, Encryption, Session, Settings, option_reply_bytes};
use crate::wire::{option, option_reply};
use crate::{Client, Fatal, Limits, Listed, Listing, Probe, Refusal, Retry, Tls};
use core::time::Duration;
use kernel_runtime::Instant;

fn client(tls: Tls) -> Client {
    let mut client =
        Client::new(&Limits::DEFAULT, crate::Settings { tls, ..crate::Settings::of("disk") }).expect("sound");
    client.connected(Instant::ZERO);
    client
}

fn session(tls: Encryption, extended: bool) -> Session {
    Session::new(&Settings { tls, extended, ..Settings::default() }, &Disk::new(4096))
}

/// Both ends up to where TLS is due.
fn before_tls(client: &mut Client, session: &mut Session) -> Result<(), Fatal> {
    while !client.wants_tls() {
        feed(client, &core::mem::take(&mut session.output), usize::MAX)?;
        let said = drain(client);
        session.receive(&said);
        if said.is_empty() && session.output.is_empty() {
            break;
        }
    }
    Ok(())
}

#[test]
fn tls_is_asked_for_first_and_everything_else_behind_it() {
    for (tls, extended) in [
        (Encryption::Offered, true),
        (Encryption::Required, true),
        (Encryption::Offered, false),
        (Encryption::Required, false),
    ] {
        let (mut client, mut session) = (client(Tls::Required), session(tls, extended));
        before_tls(&mut client, &mut session).expect("sound");
        assert!(client.wants_tls() && session.wants_tls());
        assert!(client.poll_transmit().is_none() && client.poll_event().is_none(), "nothing more in clear");
        assert!(client.poll_timeout().is_some(), "TLS is part of the handshake");
        session.tls_established();
        client.tls_established(super::at(1));
        assert!(!client.wants_tls());
        while !client.is_ready() {
            session.receive(&drain(&mut client));
            feed(&mut client, &core::mem::take(&mut session.output), usize::MAX).expect("sound");
            drop(client.poll_event());
        }
        assert!(client.export().is_some_and(|export| export.tls && export.extended == extended));
        session.assert_obeyed();
        // The next connection begins in clear again.
        client.connected(super::at(2));
        let mut next = self::session(tls, extended);
        before_tls(&mut client, &mut next).expect("sound");
        assert!(client.wants_tls());
    }
}

#[test]
fn a_refusal_ends_the_connection() {
    let mut client = client(Tls::Required);
    let mut session = session(Encryption::Off, true);
    let refused = before_tls(&mut client, &mut session);
    assert_eq!(refused, Err(Fatal::TlsRefused(Refusal::Unsupported)));
    assert!(drain(&mut client).is_empty() && !client.is_ready() && !client.wants_tls());
    client.tls_established(Instant::ZERO);
    assert!(drain(&mut client).is_empty(), "that changes nothing");
    for (kind, reason, retry) in [
        (option_reply::ERR_POLICY, Refusal::Policy, Retry::Slowly),
        (option_reply::ERR_INVALID, Refusal::Invalid, Retry::Slowly),
        (option_reply::ERR_TLS_REQD, Refusal::TlsRequired, Retry::Slowly),
        (option_reply::ERR_SHUTDOWN, Refusal::ShuttingDown, Retry::Soon),
    ] {
        let mut client = self::client(Tls::Required);
        let greeting = self::session(Encryption::Off, true).output;
        feed(&mut client, &greeting, usize::MAX).expect("sound");
        drain(&mut client);
        let reply = option_reply_bytes(option::STARTTLS, kind, b"no");
        assert_eq!(feed(&mut client, &reply, 1), Err(Fatal::TlsRefused(reason)));
        assert_eq!(Fatal::TlsRefused(reason).retry(), retry);
    }
}

#[test]
fn bytes_in_clear_behind_the_consent_end_the_connection() {
    let injected = option_reply_bytes(option::EXTENDED_HEADERS, option_reply::ACK, &[]);
    for step in [1, usize::MAX] {
        let mut client = client(Tls::Required);
        let mut session = session(Encryption::Required, true);
        before_tls(&mut client, &mut session).expect("sound");
        assert_eq!(client.space().len(), 1, "there is nothing to be read");
        assert_eq!(feed(&mut client, &injected, step), Err(Fatal::ClearBytes));
        assert!(!client.wants_tls() && client.poll_transmit().is_none());
    }
}

#[test]
fn consent_before_the_question_is_none() {
    let mut client = client(Tls::Required);
    let greeting = session(Encryption::Required, true).output;
    let script = [greeting, option_reply_bytes(option::STARTTLS, option_reply::ACK, &[])].concat();
    assert_eq!(feed(&mut client, &script, usize::MAX), Err(Fatal::AnsweredTooEarly));
}

#[test]
fn a_server_that_wants_tls_is_refused_where_it_is_off() {
    let mut client = client(Tls::Off);
    let mut session = session(Encryption::Required, true);
    let refused = Fatal::Refused { option: option::EXTENDED_HEADERS, reason: Refusal::TlsRequired };
    assert_eq!(before_tls(&mut client, &mut session), Err(refused));
    assert!(refused.to_string().contains("only in TLS"), "{refused}");
    assert_eq!(refused.retry(), Retry::Slowly);
}

#[test]
fn a_tls_handshake_that_takes_too_long_is_given_up() {
    let mut client = client(Tls::Required);
    let mut session = session(Encryption::Required, true);
    before_tls(&mut client, &mut session).expect("sound");
    assert_eq!(client.handle_timeout(super::at(9_999_999)), Ok(()));
    assert_eq!(client.handle_timeout(super::at(10_000_000)), Err(Fatal::HandshakeTimeout));
    assert!(!client.wants_tls());
}

#[test]
fn a_client_that_speaks_in_clear_behind_starttls_is_thrown_out() {
    let mut session = session(Encryption::Offered, true);
    let mut client = client(Tls::Required);
    feed(&mut client, &core::mem::take(&mut session.output), usize::MAX).expect("sound");
    let said = drain(&mut client);
    let mut together = session.clone();
    together.receive(&[&said[..], &[0]].concat());
    session.receive(&said);
    session.receive(&[0]);
    for session in [together, session] {
        assert!(session.has_ended() && !session.violations.is_empty());
    }
}

#[test]
fn a_list_and_a_probe_are_in_tls_where_it_is_required() {
    let time = Duration::from_secs(10);
    let mut session = session(Encryption::Required, false);
    let mut listing = Listing::with_tls(Instant::ZERO, 4, time, Tls::Required);
    let mut names = Vec::new();
    let mut step = |session: &mut Session| {
        while let Some(bytes) = listing.poll_transmit() {
            let count = bytes.len();
            session.receive(bytes);
            listing.transmitted(count);
        }
        for byte in core::mem::take(&mut session.output) {
            listing.space()[0] = byte;
            match listing.received(1).expect("sound") {
                Listed::Export(entry) => names.push(entry.name.to_vec()),
                Listed::Finished => return true,
                Listed::Nothing => {}
            }
        }
        if listing.wants_tls() {
            listing.tls_established();
            session.tls_established();
        }
        false
    };
    while !step(&mut session) {}
    assert_eq!(names, [b"disk"]);
    let mut session = self::session(Encryption::Required, false);
    let settings = crate::Settings { tls: Tls::Required, ..crate::Settings::of("disk") };
    let mut probe = Probe::new(Instant::ZERO, settings, time).expect("sound");
    let facts = loop {
        while let Some(bytes) = probe.poll_transmit() {
            let count = bytes.len();
            session.receive(bytes);
            probe.transmitted(count);
        }
        let output = core::mem::take(&mut session.output);
        let facts = output.into_iter().find_map(|byte| {
            probe.space()[0] = byte;
            probe.received(1).expect("sound")
        });
        if let Some(facts) = facts {
            break facts;
        }
        if probe.wants_tls() {
            probe.tls_established();
            session.tls_established();
        }
    };
    assert_eq!(facts.size, Some(4096));
}
