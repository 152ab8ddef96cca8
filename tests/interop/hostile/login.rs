//! Before anybody is logged in: requests that are no logins, logins that make no sense, text that is no text.

use super::peer::{BRIEF, Heard, Peer, SOON, Who, login, text};
use super::session::Session;
use super::steady::{Steady, good_login};
use std::thread;
use std::time::{Duration, Instant};
use storage_iscsi::wire::{Header, LoginRequest, LoginResponse, NopOut, opcode};

/// What is proper.
#[derive(Clone, Copy, Debug)]
enum Proper {
    /// The connection is closed without a word.
    Closed,
    /// A Login Response of this class (2: the initiator's fault) and then the end.
    Refused(u8),
    /// The login goes on, or is refused: an answer of some kind, or the end.
    Answered,
}

/// Something said on a new connection.
struct Case {
    what: String,
    bytes: Vec<u8>,
    /// Nothing more is said: half of a PDU is followed by the end of the stream.
    cut: bool,
    proper: Proper,
}

/// Plays every case beside a steady session, which must lose nothing.
pub(crate) fn bad_logins() {
    let steady = Steady::start(0);
    let mut wrong = Vec::new();
    let mut cases = no_logins();
    cases.extend(lengths());
    cases.extend(texts());
    cases.extend(stages(&steady.who));
    println!("{} cases", cases.len());
    for case in &cases {
        if let Err(error) = play(case) {
            wrong.push(format!("{}: {error}", case.what));
        }
    }
    wrong.extend(continued_for_ever().err());
    wrong.extend(continued_by_something_else().err());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    good_login("late", 1, SOON).unwrap();
    steady.finish(SOON);
}

fn play(case: &Case) -> Result<(), String> {
    let mut peer = Peer::connect();
    peer.bytes(&case.bytes);
    if case.cut {
        peer.finish();
    }
    match case.proper {
        Proper::Closed => match peer.ends(SOON)?.as_slice() {
            [] => Ok(()),
            heard => Err(format!("answered: {:x?}", heard[0].0)),
        },
        Proper::Refused(class) => {
            let heard = peer.ends(SOON)?;
            let classes: Vec<_> =
                heard.iter().map(|(header, _)| LoginResponse::read(header).status_class).collect();
            if classes.last() == Some(&class) { Ok(()) } else { Err(format!("status classes {classes:?}")) }
        }
        Proper::Answered => match peer.hear(SOON) {
            Heard::Nothing => Err("neither answered nor closed".into()),
            Heard::Pdu(header, _) if header.opcode() != opcode::LOGIN_RESPONSE => Err(format!("{header:x?}")),
            Heard::Pdu(..) | Heard::Closed => Ok(()),
        },
    }
}

fn pdu(header: Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    storage_iscsi::wire::Digests::default().write(header, &[], data, &mut bytes);
    bytes
}

fn case(what: impl Into<String>, bytes: Vec<u8>, proper: Proper) -> Case {
    Case { what: what.into(), bytes, cut: false, proper }
}

fn nobody() -> Who {
    Who::new("nobody", 1)
}

/// First PDUs that are no Login Requests.
fn no_logins() -> Vec<Case> {
    let mut cases: Vec<_> = (0..=0x3f)
        .filter(|code| *code != opcode::LOGIN_REQUEST)
        .map(|code| {
            let mut header = NopOut::default().header();
            header.0[0] = code;
            case(format!("opcode {code:#04x} first"), pdu(header, &[]), Proper::Closed)
        })
        .collect();
    let ping = NopOut::default().header().with_data_segment(0x00ff_ffff);
    cases.push(case("a ping of 16 MiB first", ping.0.to_vec(), Proper::Closed));
    let mut bytes = Vec::new();
    let request = login(&nobody()).header();
    storage_iscsi::wire::Digests::default().write(request, &[0; 1020], &[], &mut bytes);
    cases.push(case("a login with additional headers", bytes, Proper::Closed));
    cases
}

/// Lengths that are not those of what follows.
fn lengths() -> Vec<Case> {
    let request = login(&nobody()).header();
    let mut cases =
        vec![case("a login of 16 MiB", request.with_data_segment(0x00ff_ffff).0.to_vec(), Proper::Closed)];
    for length in 8188..=8196 {
        let proper = if length <= 8192 { Proper::Refused(2) } else { Proper::Closed };
        let what = format!("{length} bytes without an end of their text");
        cases.push(case(what, pdu(request, &vec![b'a'; length]), proper));
    }
    let whole = pdu(request, &nobody().declares());
    for length in 0..whole.len().min(124) {
        let what = format!("a login cut after {length} bytes");
        cases.push(Case { cut: true, ..case(what, whole[..length].to_vec(), Proper::Closed) });
    }
    cases
}

/// Text keys that break the grammar, the lengths, the ranges or the patience.
fn texts() -> Vec<Case> {
    let request = login(&nobody()).header();
    let long = |count: usize| "k".repeat(count);
    let with = |what: &str, more: &[u8], proper: Proper| {
        let data = [&nobody().declares()[..], more].concat();
        case(what, pdu(request, &data), proper)
    };
    let mut cases = vec![
        with("no equals sign", b"HeaderDigest\0", Proper::Refused(2)),
        with("no key", b"=x\0", Proper::Refused(2)),
        with("a key of 64 bytes", format!("{}=x\0", long(64)).as_bytes(), Proper::Answered),
        with("a key of 65 bytes", format!("{}=x\0", long(65)).as_bytes(), Proper::Answered),
        with("a key of 255 bytes", format!("{}=x\0", long(255)).as_bytes(), Proper::Answered),
        with("a key of 7,900 bytes", format!("{}=x\0", long(7900)).as_bytes(), Proper::Answered),
        with("a value of 256 bytes", format!("X-a={}\0", long(256)).as_bytes(), Proper::Answered),
        with("a value of 7,900 bytes", format!("X-a={}\0", long(7900)).as_bytes(), Proper::Answered),
        with("nothing but NULs", &[0; 5000], Proper::Answered),
        with("no NUL at the end", b"HeaderDigest=None", Proper::Answered),
        with("a key twice", b"HeaderDigest=None\0HeaderDigest=None\0", Proper::Refused(2)),
        with("2,500 keys", "a=\0".repeat(2500).as_bytes(), Proper::Answered),
        with("bytes that are no text", &[0xff; 3000], Proper::Refused(2)),
        case("no text at all", pdu(request, &[]), Proper::Refused(2)),
        case(
            "nobody's name",
            pdu(request, b"TargetName=iqn.2026-11.example.corbel:disk1\0"),
            Proper::Refused(2),
        ),
        case(
            "a name of 5,000 bytes",
            pdu(request, format!("InitiatorName=iqn.{}\0", long(5000)).as_bytes()),
            Proper::Refused(2),
        ),
        case(
            "a target that is not there",
            pdu(request, &Who::new("nobody", 77).declares()),
            Proper::Refused(2),
        ),
        with("a session type that is none", b"SessionType=Rogue\0", Proper::Refused(2)),
    ];
    let unknown: String = (0..30).map(|n| format!("X-{n:03}{}=1\0", long(200))).collect();
    cases.push(with("30 unknown keys of 205 bytes", unknown.as_bytes(), Proper::Answered));
    let numbers = ["0", "511", "16777216", "4294967296", "-1", "0x", "0xzz", "", "512.5", &"9".repeat(99)];
    for key in [
        "MaxRecvDataSegmentLength",
        "FirstBurstLength",
        "MaxConnections",
        "MaxOutstandingR2T",
        "ErrorRecoveryLevel",
    ] {
        for number in numbers {
            let what = format!("{key}={number}");
            cases.push(with(&what, format!("{what}\0").as_bytes(), Proper::Answered));
        }
    }
    for pair in [
        "HeaderDigest=foo",
        "HeaderDigest=",
        "DataDigest=CRC32C,",
        "InitialR2T=Maybe",
        "MaxConnections=65536",
        "AuthMethod=CHAP",
        "CHAP_A=6",
        "SendTargets=All",
    ] {
        cases.push(with(pair, format!("{pair}\0").as_bytes(), Proper::Answered));
    }
    cases.push(with(
        "first burst beyond the burst",
        b"MaxBurstLength=512\0FirstBurstLength=65536\0",
        Proper::Answered,
    ));
    cases
}

/// Stages, versions, handles and flags that are not to be had.
fn stages(victim: &Who) -> Vec<Case> {
    let text = nobody().declares();
    let with =
        |what: &str, request: LoginRequest, proper: Proper| case(what, pdu(request.header(), &text), proper);
    let request = login(&nobody());
    let mut cases = vec![
        with(
            "from full feature phase to security",
            LoginRequest { current_stage: 3, next_stage: 0, ..request },
            Proper::Refused(2),
        ),
        with(
            "from full feature phase to itself",
            LoginRequest { current_stage: 3, ..request },
            Proper::Refused(2),
        ),
        with("a stage that is reserved", LoginRequest { current_stage: 2, ..request }, Proper::Refused(2)),
        with("to a stage that is reserved", LoginRequest { next_stage: 2, ..request }, Proper::Refused(2)),
        with("backwards", LoginRequest { next_stage: 0, ..request }, Proper::Refused(2)),
        with("to where it is", LoginRequest { next_stage: 1, ..request }, Proper::Refused(2)),
        with(
            "a version of the future",
            LoginRequest { version_max: 9, version_min: 9, ..request },
            Proper::Refused(2),
        ),
        with("a session that never was", LoginRequest { tsih: 0xbeef, ..request }, Proper::Refused(2)),
        with(
            "more to come, and on to the next stage",
            LoginRequest { to_be_continued: true, ..request },
            Proper::Refused(2),
        ),
    ];
    // TSIHs are given out in order, so the victim's is among the first.
    for tsih in 1..6 {
        let what = format!("to join session {tsih}, which is another's");
        cases.push(with(&what, LoginRequest { tsih, ..request }, Proper::Refused(2)));
    }
    let mut forged = victim.clone();
    forged.isid = [0x80, 9, 9, 9, 9, 9];
    let bytes = pdu(LoginRequest { tsih: 1, ..login(&forged) }.header(), &forged.declares());
    cases.push(case("to join in the victim's name", bytes, Proper::Refused(2)));
    let empty = LoginRequest { transit: false, to_be_continued: true, ..request };
    cases.push(case("more to come of nothing", pdu(empty.header(), &[]), Proper::Answered));
    cases
}

/// Text that never ends is ended.
fn continued_for_ever() -> Result<(), String> {
    for size in [0, 8000] {
        let mut peer = Peer::connect();
        let request = LoginRequest { transit: false, to_be_continued: true, ..login(&nobody()) };
        let mut answers = 0;
        loop {
            peer.say(request.header(), &vec![b'x'; size]);
            match peer.hear(SOON) {
                Heard::Pdu(header, _) if LoginResponse::read(&header).status_class == 0 => answers += 1,
                Heard::Pdu(..) | Heard::Closed => break,
                Heard::Nothing => {
                    return Err(format!("text that never ends: silence after {answers} answers"));
                }
            }
            if answers > 100 {
                return Err("text that never ends is taken for ever".into());
            }
        }
    }
    Ok(())
}

/// A login that turns into something else before it is done.
fn continued_by_something_else() -> Result<(), String> {
    for code in [opcode::SCSI_COMMAND, opcode::NOP_OUT, opcode::TEXT_REQUEST, opcode::DATA_OUT] {
        let mut peer = Peer::connect();
        let request = LoginRequest { transit: false, to_be_continued: true, ..login(&nobody()) };
        peer.say(request.header(), b"InitiatorName=iqn.2026-11.exam");
        let Heard::Pdu(..) = peer.hear(SOON) else { return Err("no answer to a login that goes on".into()) };
        let mut header = NopOut::default().header();
        header.0[0] = code;
        peer.say(header, &[]);
        peer.ends(SOON).map_err(|error| format!("opcode {code:#04x} within a login: {error}"))?;
    }
    Ok(())
}

/// One initiator from two connections at once, again and again: one session lives in the end, and nobody else sees it.
pub(crate) fn same_isid_races() {
    const LOGINS: usize = 500;
    let steady = Steady::start(0);
    let who = Who::new("twin", 1);
    let racers: Vec<_> = (0..2)
        .map(|_| {
            let who = who.clone();
            thread::spawn(move || {
                let mut lived = 0;
                for _ in 0..LOGINS {
                    let mut peer = Peer::connect();
                    // Whoever is replaced hears that its connection is gone, at whatever point that is.
                    if peer.log_in(&who, &[]).is_ok() {
                        lived += 1;
                    }
                }
                lived
            })
        })
        .collect();
    let lived: usize = racers.into_iter().map(|racer| racer.join().unwrap()).sum();
    println!("{lived} of {} logins were not overtaken", 2 * LOGINS);
    assert!(lived > LOGINS, "{lived}");
    // The last one in replaces all others, and works.
    let mut first = Session::open(&who);
    let mut second = Session::open(&who);
    first.peer.ends(SOON).unwrap();
    second.ping().unwrap();
    steady.finish(SOON);
}

/// Connections that keep their slots and never log in: nobody who is logged in notices, and the slots come back.
pub(crate) fn slow_logins() {
    let steady = Steady::start(0);
    let request = pdu(login(&nobody()).header(), &nobody().declares());
    let start = Instant::now();
    let mut crowd = Vec::new();
    // Every kind of slowness: silent at once, silent within the header, silent within the text, silent after an answer.
    // A SYN that finds every slot half open is asked again after a second.
    while let Ok(mut peer) = Peer::connect_within(Duration::from_millis(1500)) {
        let length = [0, 20, 60, request.len()][crowd.len() % 4];
        if length == request.len() {
            let unfinished = LoginRequest { transit: false, ..login(&nobody()) };
            let mut who = nobody();
            who.isid[5] = u8::try_from(crowd.len() % 256).unwrap();
            peer.say(LoginRequest { isid: who.isid, ..unfinished }.header(), &nobody().declares());
        } else {
            peer.bytes(&request[..length]);
        }
        crowd.push(peer);
        assert!(crowd.len() < 1000, "connections without end");
    }
    println!("{} slow connections in {:?}", crowd.len(), start.elapsed());
    assert!(crowd.len() >= 7, "{} slots", crowd.len());
    // A byte a second keeps nobody longer.
    let mut drip = request.iter();
    let mut last = Instant::now();
    let good = loop {
        if let Ok(took) = good_login("late", 1, Duration::from_millis(300)) {
            break took;
        }
        assert!(start.elapsed() < Duration::from_secs(14), "no slot came back");
        if last.elapsed() > Duration::from_secs(1)
            && let Some(byte) = drip.next()
        {
            last = Instant::now();
            for peer in crowd.iter_mut().step_by(4) {
                peer.bytes(&[*byte]);
            }
        }
    };
    println!("a good login got in {:?} after the first slow one (it took {good:?})", start.elapsed());
    // By the login deadline all of them are gone.
    for (n, peer) in crowd.iter_mut().enumerate() {
        peer.ends(Duration::from_secs(15)).unwrap_or_else(|error| panic!("slow connection {n}: {error}"));
    }
    steady.finish(SOON);
}

/// A login on a connection that is logged in already.
pub(crate) fn login_again(session: &mut Session) -> Result<(), String> {
    let who = nobody();
    let request = LoginRequest { cmd_sn: session.cmd_sn, exp_stat_sn: session.exp_stat_sn, ..login(&who) };
    session.peer.say(request.header(), &[who.declares(), text(&[("HeaderDigest", "CRC32C")])].concat());
    session.listen(BRIEF)?;
    match session.rejects.pop() {
        Some(_) => session.ping().map(drop),
        None => Err("a second login was not rejected".into()),
    }
}
