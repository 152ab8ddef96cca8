//! Storage services that lie: their own disk waits or fails as documented, and every other goes on.

use super::liar::{Liar, SIZE, Then, Trick, large_blocks, read_only, without_flush};
use super::peer::{Peer, SOON, Who};
use super::session::{Answer, BLOCK, BUSY, GOOD, SYNCHRONIZE_CACHE, Session, lun, read10, write10};
use super::steady::Steady;
use std::thread;
use std::time::{Duration, Instant};
use storage_nbd::testing::{chunk_bytes, option_reply_bytes, simple_reply_bytes};
use storage_nbd::wire::{self, Request, chunk, command, error, info, option, option_reply};

/// The port of the first liar; the next ones follow.
pub(crate) const PORT: u16 = 11_000;
/// Longest that a ping or an INQUIRY may take, whatever the disk does.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to reach a service, and some.
const RECONNECT: Duration = Duration::from_secs(8);
/// How long commands are held for a service that is away.
const HOLD: Duration = Duration::from_secs(25);
/// The block that is read, and what is on it.
const BLOCK_NUMBER: u32 = 77;
const CONTENT: [u8; BLOCK] = [0xc5; BLOCK];

type Play = fn(&Liar, &mut Session) -> Result<(), String>;

/// A liar and what is to happen with it.
enum Ordeal {
    /// It lies from the first contact on; the read that waits is served when it turns honest.
    FromTheStart(Trick),
    /// It is honest at first.
    Later(Trick),
    /// A story of its own, after honest beginnings.
    Story(Play),
}

/// How many liars there are.
pub(crate) fn liars() -> usize {
    ordeals().len()
}

/// All at once: every liar has a disk, a session and a thread.
pub(crate) fn lying_services() {
    let steady = Steady::start(0);
    let ordeals: Vec<_> = ordeals()
        .into_iter()
        .enumerate()
        .map(|(n, (what, ordeal))| (what, thread::spawn(move || play(n, ordeal))))
        .collect();
    let start = Instant::now();
    let wrong: Vec<_> = ordeals
        .into_iter()
        .filter_map(|(what, thread)| {
            let outcome = thread.join().unwrap_or_else(|_| Err("panicked".into()));
            outcome.err().map(|error| format!("{what}: {error}"))
        })
        .collect();
    println!("all ordeals in {:?}", start.elapsed());
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    steady.finish(SOON);
}

fn ordeals() -> Vec<(&'static str, Ordeal)> {
    use Ordeal::{FromTheStart, Later, Story};
    let info = |kind: u16, rest: &[u8]| [&kind.to_be_bytes()[..], rest].concat();
    let export =
        |size: u64| (option_reply::INFO, info(info::EXPORT, &[&size.to_be_bytes()[..], &[0, 5]].concat()));
    let sizes = |minimum: u32, preferred: u32, maximum: u32| {
        let words: Vec<u8> = [minimum, preferred, maximum].into_iter().flat_map(u32::to_be_bytes).collect();
        (option_reply::INFO, info(info::BLOCK_SIZE, &words))
    };
    let ack = || (option_reply::ACK, Vec::new());
    let go = |replies: Vec<(u32, Vec<u8>)>| FromTheStart(Trick::Go(replies));
    let greet = |bytes: &[&[u8]], then| FromTheStart(Trick::Greet(bytes.concat(), then));
    let reply = |lie, then| Later(Trick::Reply(lie, then));
    let nbd = b"NBDMAGIC";
    let mut huge = wire::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    huge.extend(option::STRUCTURED_REPLY.to_be_bytes());
    huge.extend([0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    vec![
        ("a greeting cut early", FromTheStart(Trick::Cut(0))),
        ("a greeting cut late", FromTheStart(Trick::Cut(6))),
        ("a greeting cut at its end", FromTheStart(Trick::Cut(12))),
        ("a wrong magic", greet(&[b"NBDMAGIK", b"IHAVEOPT", &[0, 3]], Then::Silence)),
        ("a wrong second magic", greet(&[nbd, b"IHAVENOT", &[0, 3]], Then::Silence)),
        ("oldstyle", greet(&[nbd, &[0, 0, 0x42, 2, 0x81, 0x86, 0x12, 0x53], &[0; 136]], Then::Silence)),
        ("no fixed newstyle", greet(&[nbd, b"IHAVEOPT", &[0, 0]], Then::Silence)),
        ("silence", greet(&[], Then::Silence)),
        ("a connection closed at once", greet(&[], Then::Close)),
        ("another protocol", greet(&[b"HTTP/1.1 400 Bad Request\r\n\r\n", &[b' '; 9000]], Then::Close)),
        ("noise", greet(&[nbd, b"IHAVEOPT", &[0, 3], &[0xa5; 60_000]], Then::Silence)),
        ("an option reply of 4 GiB", FromTheStart(Trick::Answer(huge))),
        (
            "a reply to another option",
            FromTheStart(Trick::Answer(option_reply_bytes(option::LIST, option_reply::ACK, &[]))),
        ),
        ("a reply without magic", FromTheStart(Trick::Answer(vec![0; 20]))),
        ("an error of 4,097 letters", go(vec![(option_reply::ERR_POLICY, vec![b'x'; 4097])])),
        ("facts without end", go(vec![(option_reply::INFO, info(99, &[0; 8])); 20_000])),
        ("names of servers", go(vec![(option_reply::SERVER, vec![0, 0, 0, 1, b'a']); 20_000])),
        ("an INFO of one byte", go(vec![(option_reply::INFO, vec![0])])),
        ("no size", go(vec![ack()])),
        ("a size of zero", go(vec![export(0), ack()])),
        ("a size of 2^63", go(vec![export(1 << 63), ack()])),
        ("a size of 2^64 - 1", go(vec![export(u64::MAX), ack()])),
        ("two sizes", go(vec![export(1 << 20), export(2 << 20), ack()])),
        ("blocks of three bytes", go(vec![export(1 << 20), sizes(3, 4096, 1 << 20), ack()])),
        ("blocks of nothing", go(vec![export(1 << 20), sizes(0, 0, 0), ack()])),
        ("blocks upside down", go(vec![export(1 << 20), sizes(4096, 4096, 512), ack()])),
        ("no such export", go(vec![(option_reply::ERR_UNKNOWN, b"gone".to_vec())])),
        ("TLS is required", go(vec![(option_reply::ERR_TLS_REQD, Vec::new())])),
        ("a reply to nobody", reply(|_| simple_reply_bytes(0, 0xdead_beef), Then::Silence)),
        ("a reply without its magic", reply(|_| vec![0x11; 64], Then::Silence)),
        (
            "a read in a simple reply",
            reply(
                |request| [simple_reply_bytes(0, request.cookie), CONTENT.to_vec()].concat(),
                Then::Silence,
            ),
        ),
        (
            "bytes from elsewhere",
            reply(|request| data(request, request.offset + u64::from(request.length), 512), Then::Silence),
        ),
        (
            "bytes from before the beginning",
            reply(|request| data(request, u64::MAX - 100, 512), Then::Silence),
        ),
        (
            "more bytes than asked for",
            reply(|request| data(request, request.offset, request.length as usize + 1), Then::Silence),
        ),
        ("the same bytes twice", reply(|request| [part(request), part(request)].concat(), Then::Silence)),
        (
            "a chunk of 4 GiB",
            reply(
                |request| {
                    let mut bytes = chunk_bytes(0, chunk::OFFSET_DATA, request.cookie, &[]);
                    bytes[16..20].fill(0xff);
                    bytes
                },
                Then::Silence,
            ),
        ),
        (
            "a chunk of no known kind",
            reply(|request| chunk_bytes(1, 0x7fff, request.cookie, &[0; 8]), Then::Silence),
        ),
        (
            "nothing, and not the end",
            reply(|request| chunk_bytes(0, chunk::NONE, request.cookie, &[]), Then::Silence),
        ),
        (
            "a hole of 4 GiB",
            reply(
                |request| {
                    let payload = [&request.offset.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
                    chunk_bytes(1, chunk::OFFSET_HOLE, request.cookie, &payload)
                },
                Then::Silence,
            ),
        ),
        ("half of a read, then the end", reply(half, Then::Close)),
        ("half of a read, then silence", reply(half, Then::Silence)),
        ("no answer at all", reply(|_| Vec::new(), Then::Silence)),
        ("the end at each command", reply(|_| Vec::new(), Then::Close)),
        ("shutting down, for ever", Later(Trick::Fail(command::READ, error::ESHUTDOWN))),
        ("fewer bytes than before", Later(Trick::Export(|_| {}, SIZE / 2))),
        ("read-only all of a sudden", Story(turned_read_only)),
        ("no FLUSH all of a sudden", Later(Trick::Export(without_flush, SIZE))),
        ("larger blocks all of a sudden", Later(Trick::Export(large_blocks, SIZE))),
        ("errors", Story(errors)),
        ("a reply twice", Story(reply_twice)),
        ("odd pieces in an odd order", Story(odd)),
        ("a flush that fails once", Story(failed_flush)),
        ("writes lost with a connection", Story(lost_writes)),
        ("away for longer than commands are held", Story(away)),
        ("a write that may come back from the dead", Story(zombie)),
    ]
}

fn data(request: &Request, offset: u64, length: usize) -> Vec<u8> {
    let payload = [&offset.to_be_bytes()[..], &vec![0xbb; length]].concat();
    chunk_bytes(chunk::FLAG_DONE, chunk::OFFSET_DATA, request.cookie, &payload)
}

/// The first byte of a read, and more to come.
fn part(request: &Request) -> Vec<u8> {
    let payload = [&request.offset.to_be_bytes()[..], &[0xc5]].concat();
    chunk_bytes(0, chunk::OFFSET_DATA, request.cookie, &payload)
}

/// The header of a whole reply and half of its bytes.
fn half(request: &Request) -> Vec<u8> {
    let whole = data(request, request.offset, request.length as usize);
    whole[..whole.len() / 2].to_vec()
}

fn play(n: usize, ordeal: Ordeal) -> Result<(), String> {
    let port = PORT + u16::try_from(n).unwrap();
    let who = Who::new("patient", n + 1);
    match ordeal {
        Ordeal::FromTheStart(trick) => {
            let liar = Liar::start(port, trick);
            liar.fill(BLOCK_NUMBER as usize * BLOCK, &CONTENT);
            let mut session = log_in(&who)?;
            endure(&liar, &mut session)
        }
        Ordeal::Later(trick) => {
            let liar = honest_at_first(port);
            let mut session = log_in(&who)?;
            wait_for_disk(&mut session)?;
            liar.turn(trick);
            endure(&liar, &mut session)
        }
        Ordeal::Story(story) => {
            let liar = honest_at_first(port);
            let mut session = log_in(&who)?;
            wait_for_disk(&mut session)?;
            story(&liar, &mut session)?;
            obeyed(&liar)
        }
    }
}

/// Logs in, and takes the unit attention that a new nexus begins with, for which no disk is needed.
fn log_in(who: &Who) -> Result<Session, String> {
    // All come at once, and connection slots open one after the other when the appliance starts.
    let end = Instant::now() + SOON;
    let mut session = loop {
        match Session::open_silently(Peer::connect(), who, &[]) {
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            outcome => break outcome?,
        }
    };
    let request_sense = [0x03, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..3 {
        session.run(lun(0), &request_sense, &[], 18)?.good()?;
    }
    Ok(session)
}

fn honest_at_first(port: u16) -> Liar {
    let liar = Liar::start(port, Trick::Honest);
    liar.fill(BLOCK_NUMBER as usize * BLOCK, &CONTENT);
    liar
}

fn obeyed(liar: &Liar) -> Result<(), String> {
    let violations = liar.violations();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(format!("the appliance broke the protocol: {violations:?}"))
    }
}

fn read_known(session: &mut Session, limit: Duration) -> Result<Answer, String> {
    let tag = session.begin(lun(0), &read10(BLOCK_NUMBER, 1), &[], 512);
    session.finish(tag, limit)
}

/// Until the disk has been reached for the first time.
fn wait_for_disk(session: &mut Session) -> Result<(), String> {
    let end = Instant::now() + 2 * RECONNECT;
    loop {
        let answer = read_known(session, 2 * RECONNECT)?;
        match answer.status {
            GOOD => return is_content(&answer),
            _ if Instant::now() > end => return Err(format!("the disk does not come up: {answer:?}")),
            _ => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn is_content(answer: &Answer) -> Result<(), String> {
    if answer.status == GOOD && answer.data == CONTENT {
        Ok(())
    } else {
        Err(format!("a read brought {answer:?}"))
    }
}

/// Waits while pings and INQUIRY are answered at once.
fn attend(
    session: &mut Session,
    limit: Duration,
    mut done: impl FnMut(&mut Session) -> bool,
) -> Result<(), String> {
    let end = Instant::now() + limit;
    while !done(session) {
        if Instant::now() > end {
            return Err("waited too long".into());
        }
        let took = session.ping()?;
        if took > AT_ONCE {
            return Err(format!("a ping took {took:?}"));
        }
        let start = Instant::now();
        session.run(lun(0), &[0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 36)?.good()?;
        if start.elapsed() > AT_ONCE {
            return Err(format!("INQUIRY took {:?}", start.elapsed()));
        }
        session.listen(Duration::from_millis(50))?;
    }
    Ok(())
}

/// The service lies: a read waits, all else is answered. It turns honest: the read is served, on the same session.
fn endure(liar: &Liar, session: &mut Session) -> Result<(), String> {
    let tag = session.begin(lun(0), &read10(BLOCK_NUMBER, 1), &[], 512);
    // Two attempts show that the first was judged and the second was not taken for another service's.
    attend(session, HOLD - RECONNECT, |_| liar.connections() >= 2)
        .map_err(|error| format!("{} connections while it lied: {error}", liar.connections()))?;
    if session.is_done(tag) {
        return Err(format!("a read was answered by a liar: {:?}", session.finish(tag, AT_ONCE)));
    }
    liar.turn(Trick::Honest);
    let start = Instant::now();
    attend(session, 2 * RECONNECT, |session| session.is_done(tag))
        .map_err(|error| format!("then honest: {error}"))?;
    let answer = session.finish(tag, AT_ONCE)?;
    is_content(&answer).map_err(|error| format!("after {:?} of honesty: {error}", start.elapsed()))?;
    session.settle()?;
    session.run(lun(0), &write10(5, 1), &[0x5a; BLOCK], 0)?.good()?;
    session.run(lun(0), &SYNCHRONIZE_CACHE, &[], 0)?.good()?;
    if liar.content(5 * BLOCK, BLOCK) != [0x5a; BLOCK] {
        return Err("what was written and flushed is not there".into());
    }
    obeyed(liar)
}

/// What can still be read is read, and who writes is told that he may not.
fn turned_read_only(liar: &Liar, session: &mut Session) -> Result<(), String> {
    liar.turn(Trick::Export(read_only, SIZE));
    let end = Instant::now() + 2 * RECONNECT;
    loop {
        let tag = session.begin(lun(0), &write10(5, 1), &[0x5a; BLOCK], 0);
        let answer = session.finish(tag, 2 * RECONNECT)?;
        match answer.sense {
            Some((7, ..)) => break,
            // That something has changed is told first.
            Some((6, ..)) if Instant::now() < end => {}
            _ => return Err(format!("a write to a disk that is read-only: {answer:?}")),
        }
    }
    session.settle()?;
    is_content(&read_known(session, AT_ONCE)?)
}

/// Errors of the service are errors of the command, each in its own words, and leave no trace.
fn errors(liar: &Liar, session: &mut Session) -> Result<(), String> {
    let cases = [
        (command::READ, error::EIO, Some(3)),
        (command::READ, 0xffff, None),
        (command::READ, error::ENOMEM, None),
        (command::WRITE, error::EIO, Some(3)),
        // Space may come: for as long as commands are held it is tried again, and then the initiator is asked to.
        (command::WRITE, error::ENOSPC, Some(2)),
        (command::WRITE, error::EPERM, Some(7)),
    ];
    for (kind, code, key) in cases {
        liar.turn(Trick::Fail(kind, code));
        let cdb = if kind == command::READ { read10(9, 1) } else { write10(9, 1) };
        let out: &[u8] = if kind == command::READ { &[] } else { &[0x11; BLOCK] };
        let tag = session.begin(lun(0), &cdb, out, if out.is_empty() { 512 } else { 0 });
        let answer = session.finish(tag, HOLD + RECONNECT)?;
        let is_proper = match key {
            Some(key) => answer.sense.is_some_and(|(found, ..)| found == key),
            None => answer.status != GOOD,
        };
        if !is_proper {
            return Err(format!("command {kind} with error {code}: {answer:?}"));
        }
    }
    liar.turn(Trick::Honest);
    read_known(session, 2 * RECONNECT).and_then(|answer| is_content(&answer))
}

/// The first reply is the truth, the second is to nobody.
fn reply_twice(liar: &Liar, session: &mut Session) -> Result<(), String> {
    let lie = |request: &Request| {
        let payload = [&request.offset.to_be_bytes()[..], &vec![0xc5; request.length as usize]].concat();
        let reply = chunk_bytes(chunk::FLAG_DONE, chunk::OFFSET_DATA, request.cookie, &payload);
        [reply.clone(), reply].concat()
    };
    liar.turn(Trick::Reply(lie, Then::Silence));
    read_known(session, 2 * RECONNECT).and_then(|answer| is_content(&answer))?;
    attend(session, 2 * RECONNECT, |_| liar.connections() >= 2)?;
    liar.turn(Trick::Honest);
    read_known(session, 2 * RECONNECT).and_then(|answer| is_content(&answer))
}

/// Strange, but within the protocol.
fn odd(liar: &Liar, session: &mut Session) -> Result<(), String> {
    liar.turn(Trick::Odd);
    for round in 0..60_u32 {
        let data: Vec<u8> = (0..64 * BLOCK as u32).map(|n| (n / 7 + round) as u8).collect();
        let block = 200 + (round % 8) * 64;
        let write = session.begin(lun(0), &write10(block, 64), &data, 0);
        let other = session.begin(lun(0), &read10(BLOCK_NUMBER, 1), &[], 512);
        let answer = session.finish(other, 2 * RECONNECT)?;
        is_content(&answer)?;
        session.finish(write, 2 * RECONNECT)?.good()?;
        let reads: Vec<_> =
            (0..8).map(|n| session.begin(lun(0), &read10(block + 8 * n, 8), &[], 4096)).collect();
        for (piece, tag) in data.chunks(4096).zip(reads) {
            if session.finish(tag, SOON)?.good()?.data != piece {
                return Err(format!("round {round}: not what was written"));
            }
        }
    }
    Ok(())
}

fn flush(session: &mut Session) -> Result<Answer, String> {
    let tag = session.begin(lun(0), &SYNCHRONIZE_CACHE, &[], 0);
    session.finish(tag, 2 * RECONNECT)
}

fn failed_flush(liar: &Liar, session: &mut Session) -> Result<(), String> {
    liar.turn(Trick::FailOnce(command::FLUSH, error::EIO));
    let tag = session.begin(lun(0), &write10(10, 1), &[0x44; BLOCK], 0);
    session.finish(tag, 2 * RECONNECT)?.good()?;
    // The service would succeed from the second on, and may have dropped what the first was to save: it is written again.
    flush(session)?.good().map(drop)
}

fn lost_writes(liar: &Liar, session: &mut Session) -> Result<(), String> {
    session.run(lun(0), &write10(10, 1), &[0x55; BLOCK], 0)?.good()?;
    liar.turn(Trick::Honest);
    read_known(session, 2 * RECONNECT).and_then(|answer| is_content(&answer))?;
    flush(session)?.good().map(drop)
}

/// Held for 25 s, then BUSY, and the next as long again; then served without another login.
fn away(liar: &Liar, session: &mut Session) -> Result<(), String> {
    liar.turn(Trick::Greet(Vec::new(), Then::Close));
    let start = Instant::now();
    let tag = session.begin(lun(0), &read10(BLOCK_NUMBER, 1), &[], 512);
    attend(session, HOLD + RECONNECT, |session| session.is_done(tag))?;
    let (held, answer) = (start.elapsed(), session.finish(tag, AT_ONCE)?);
    println!("held for {held:?}");
    if answer.status != BUSY || held < HOLD - Duration::from_secs(3) || held > HOLD + Duration::from_secs(3) {
        return Err(format!("after {held:?}: {answer:?}"));
    }
    liar.turn(Trick::Honest);
    let end = Instant::now() + 2 * RECONNECT;
    loop {
        let answer = read_known(session, 2 * RECONNECT)?;
        if answer.status == GOOD {
            return is_content(&answer);
        }
        if Instant::now() > end {
            return Err(format!("does not come back: {answer:?}"));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The old connection's write may still reach the medium: newer ones of the same range wait that long, others do not.
fn zombie(liar: &Liar, session: &mut Session) -> Result<(), String> {
    liar.turn(Trick::Swallow(command::WRITE));
    let first = session.begin(lun(0), &write10(100, 1), &[0x01; BLOCK], 0);
    attend(session, 2 * RECONNECT, |_| liar.commands() > 0)?;
    thread::sleep(Duration::from_millis(500));
    let lost = Instant::now();
    liar.turn(Trick::Honest);
    // The very same write may go again at once.
    session.finish(first, 2 * RECONNECT)?.good()?;
    let newer = session.begin(lun(0), &write10(100, 1), &[0x02; BLOCK], 0);
    let elsewhere = session.begin(lun(0), &write10(300, 1), &[0x03; BLOCK], 0);
    session.finish(elsewhere, SOON)?.good()?;
    attend(session, 2 * HOLD, |session| session.is_done(newer))?;
    // It is held as others are, and then to be sent again.
    let mut answer = session.finish(newer, AT_ONCE)?;
    while answer.status == BUSY && lost.elapsed() < 2 * HOLD {
        let newer = session.begin(lun(0), &write10(100, 1), &[0x02; BLOCK], 0);
        answer = session.finish(newer, 2 * RECONNECT)?;
    }
    answer.good()?;
    println!("a newer write waited until {:?} after the loss", lost.elapsed());
    if lost.elapsed() < HOLD || liar.content(100 * BLOCK, BLOCK) != [0x02; BLOCK] {
        return Err(format!("a newer write went {:?} after the loss", lost.elapsed()));
    }
    Ok(())
}
