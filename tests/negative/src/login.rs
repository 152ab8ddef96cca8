//! What is wrong with the PDUs and the text of a login (RFC 7143, sections 6.1 to 6.3 and 13).

use crate::case::{Answer, Case, Edit, Place, Said, State, case};
use crate::play::{login, names};
use storage_iscsi::wire::{NopOut, opcode};

const INITIATOR_ERROR: Answer = Answer::Refused(2, 0);
const AUTHENTICATION_FAILURE: Answer = Answer::Refused(2, 1);
const NOT_FOUND: Answer = Answer::Refused(2, 3);
const MISSING_PARAMETER: Answer = Answer::Refused(2, 7);
const SESSION_TYPE: Answer = Answer::Refused(2, 9);

pub(crate) fn cases(place: &Place) -> Vec<Case> {
    let mut cases = no_logins();
    cases.extend(lengths(place));
    cases.extend(headers(place));
    cases.extend(texts(place));
    cases.extend(who(place));
    cases.extend(twice(place));
    cases.extend(long_keys(place));
    cases.extend(numbers());
    cases.extend(choices(place));
    cases.extend(out_of_place());
    cases
}

/// A first request straight to full feature phase, with this text.
fn first(text: &[u8]) -> Said {
    Said::new(login(1, true).header(), text)
}

/// A request of the operational stage, behind one that was answered.
fn next(text: &str) -> Said {
    Said::new(login(1, true).header(), text.as_bytes())
}

/// Anything but a Login Request ends a connection that begins with it (6.3).
fn no_logins() -> Vec<Case> {
    let first = |code: u8| {
        let mut header = NopOut::default().header();
        header.0[0] = code;
        let name = format!("opcode {code:#04x} first");
        case("L12", name, State::TransportUp, Said::new(header, &[]), Answer::Closed)
    };
    let mut cases: Vec<_> = (0..=0x3f).filter(|code| *code != opcode::LOGIN_REQUEST).map(first).collect();
    let ping = Said::new(NopOut::default().header(), &[]).put(5, &[0xff; 3]);
    cases.push(case("L12", "a ping of 16 MiB first", State::TransportUp, ping, Answer::Closed));
    cases
}

/// 8,192 bytes are the most that a Login Request carries (13.12), and its text ends with a NUL (6.1).
fn lengths(place: &Place) -> Vec<Case> {
    let mut cases = Vec::new();
    for length in 8188..=8196 {
        let answer = if length <= 8192 { INITIATOR_ERROR } else { Answer::Closed };
        // Those that just fit have a row of their own in the list of failures.
        let source = if (8189..=8192).contains(&length) { "CVE-2026-90011" } else { "L13" };
        let mut text = names(place).into_bytes();
        text.extend(b"X-a=");
        text.resize(length, b'a');
        let name = format!("{length} bytes of text without an end");
        cases.push(case(source, name, State::TransportUp, first(&text), answer));
    }
    let huge = first(&[]).put(4, &[0, 0xff, 0xff, 0xff]);
    cases.push(case("L13", "a login of 16 MiB", State::TransportUp, huge, Answer::Closed));
    let whole = 48 + names(place).len();
    for cut in 0..76.min(whole) {
        let source = if cut < 48 { "CVE-2026-53176" } else { "L13" };
        let name = format!("a login cut after {cut} bytes");
        let said = first(names(place).as_bytes()).with(Edit::Cut(cut));
        cases.push(case(source, name, State::TransportUp, said, Answer::Closed));
    }
    cases
}

/// Nothing that a login may have as an additional header is defined (11.2.2.1).
fn headers(place: &Place) -> Vec<Case> {
    [4, 8, 16, 508, 1020]
        .map(|length| {
            let said = first(names(place).as_bytes()).and_headers(&vec![0; length]);
            let name = format!("a login with {length} bytes of additional headers");
            case("L14", name, State::TransportUp, said, Answer::Closed)
        })
        .to_vec()
}

/// The grammar of keys and values (6.1).
fn texts(place: &Place) -> Vec<Case> {
    let names = names(place);
    let with = |name: &str, more: &[u8]| {
        let text = [names.as_bytes(), more].concat();
        case("L15", name, State::TransportUp, first(&text), INITIATOR_ERROR)
    };
    let key = |length: usize| format!("{}=x\0", "k".repeat(length));
    let many: String = (0..300).map(|n| format!("X-{n}=1\0")).collect();
    vec![
        with("no equals sign", b"HeaderDigest\0"),
        with("no key", b"=x\0"),
        with("no key and no value", b"=\0"),
        with("a key of 64 bytes", key(64).as_bytes()),
        with("a key of 65 bytes", key(65).as_bytes()),
        with("a key of 255 bytes", key(255).as_bytes()),
        with("a key with a space", b"Header Digest=None\0"),
        with("a key with a comma", b"Header,Digest=None\0"),
        with("a key with a byte that is no ASCII", b"Header\xc3\xa4=None\0"),
        with("a value that is no UTF-8", b"X-a=\xc0\x80\0"),
        with("a value with an escape sequence", b"X-a=\x1b[2J\0"),
        with("a value with a line break", b"X-a=1\n2\0"),
        with("no NUL at the end", b"HeaderDigest=None"),
        with("bytes that are no text", &[0xff; 300]),
        with("300 keys", many.as_bytes()),
    ]
}

/// The names come first, once, and are names (4.2.7, 6.3.1, 13.4 to 13.21).
fn who(place: &Place) -> Vec<Case> {
    let Place { initiator, target, .. } = place;
    let first = |source, name: &str, text: String, answer: Answer| {
        case(source, name, State::TransportUp, first(text.as_bytes()), answer)
    };
    let long = |length: usize| format!("iqn.{}", "x".repeat(length - 4));
    vec![
        first("L15", "no text at all", String::new(), MISSING_PARAMETER),
        first("L15", "nothing but NULs", "\0".repeat(4096), MISSING_PARAMETER),
        first("L19", "no initiator's name", format!("TargetName={target}\0"), MISSING_PARAMETER),
        first("L19", "no target's name", format!("InitiatorName={initiator}\0"), MISSING_PARAMETER),
        first(
            "L19",
            "an empty initiator's name",
            format!("InitiatorName=\0TargetName={target}\0"),
            INITIATOR_ERROR,
        ),
        first(
            "L19",
            "an initiator's name of no kind",
            format!("InitiatorName=host\0TargetName={target}\0"),
            INITIATOR_ERROR,
        ),
        first(
            "L19",
            "an initiator's name with a space",
            format!("InitiatorName=iqn.a b\0TargetName={target}\0"),
            INITIATOR_ERROR,
        ),
        first(
            "CVE-2013-2850",
            "an initiator's name of 224 bytes",
            format!("InitiatorName={}\0TargetName={target}\0", long(224)),
            INITIATOR_ERROR,
        ),
        first(
            "CVE-2013-2850",
            "an initiator's name of 5,000 bytes",
            format!("InitiatorName={}\0TargetName={target}\0", long(5000)),
            INITIATOR_ERROR,
        ),
        first(
            "L19",
            "a target that is not there",
            format!("InitiatorName={initiator}\0TargetName={target}x\0"),
            NOT_FOUND,
        ),
        first(
            "L19",
            "the beginning of a target's name",
            format!("InitiatorName={initiator}\0TargetName={}\0", &target[..target.len() - 1]),
            NOT_FOUND,
        ),
        first(
            "L19",
            "a target's name of no kind",
            format!("InitiatorName={initiator}\0TargetName=disk\0"),
            NOT_FOUND,
        ),
        first(
            "L19",
            "an empty target's name",
            format!("InitiatorName={initiator}\0TargetName=\0"),
            NOT_FOUND,
        ),
        first(
            "CVE-2013-2850",
            "a target's name of 224 bytes",
            format!("InitiatorName={initiator}\0TargetName={}\0", long(224)),
            NOT_FOUND,
        ),
        first(
            "L19",
            "a session type that is none",
            format!("InitiatorName={initiator}\0TargetName={target}\0SessionType=Rogue\0"),
            SESSION_TYPE,
        ),
        first(
            "L19",
            "a session type in small letters",
            format!("InitiatorName={initiator}\0TargetName={target}\0SessionType=normal\0"),
            SESSION_TYPE,
        ),
        first(
            "L19",
            "an empty session type",
            format!("InitiatorName={initiator}\0TargetName={target}\0SessionType=\0"),
            SESSION_TYPE,
        ),
    ]
}

/// No key may be negotiated twice (6.2).
fn twice(place: &Place) -> Vec<Case> {
    let pairs = [
        "HeaderDigest=None",
        "DataDigest=None",
        "MaxConnections=1",
        "InitialR2T=Yes",
        "ImmediateData=Yes",
        "MaxRecvDataSegmentLength=8192",
        "MaxBurstLength=262144",
        "FirstBurstLength=65536",
        "DefaultTime2Wait=2",
        "DefaultTime2Retain=0",
        "MaxOutstandingR2T=1",
        "DataPDUInOrder=Yes",
        "DataSequenceInOrder=Yes",
        "ErrorRecoveryLevel=0",
        "InitiatorAlias=me",
        "iSCSIProtocolLevel=1",
        "IFMarker=No",
        "OFMarker=No",
    ];
    let mut cases: Vec<_> = pairs
        .iter()
        .map(|pair| {
            let name = format!("{pair}, twice in a request");
            case("L15", name, State::Operational, next(&format!("{pair}\0{pair}\0")), INITIATOR_ERROR)
        })
        .collect();
    for name in ["InitiatorName", "TargetName", "SessionType"] {
        let text = names(place);
        let pair = text.split('\0').find(|pair| pair.starts_with(name)).unwrap_or_default();
        let said = next(&format!("{pair}\0"));
        cases.push(case("L15", format!("{name} again"), State::Operational, said, INITIATOR_ERROR));
    }
    cases
}

/// What is not understood is said to be so, key and all, as long as that fits (6.2, and 6.1 for lengths).
fn long_keys(place: &Place) -> Vec<Case> {
    let mut cases = Vec::new();
    for length in [1, 62, 63] {
        let key = "k".repeat(length);
        let answer = Answer::Settled(format!("{key}=NotUnderstood"));
        let name = format!("a key of {length} bytes that nobody knows");
        cases.push(case("CVE-2013-2850", name, State::Operational, next(&format!("{key}=x\0")), answer));
    }
    for length in [255, 256, 7900] {
        let answer = Answer::Settled("X-a=NotUnderstood".into());
        let text = format!("X-a={}\0", "v".repeat(length));
        let name = format!("a key that nobody knows with a value of {length} bytes");
        cases.push(case("CVE-2013-2850", name, State::Operational, next(&text), answer));
    }
    // A value of a key that has no length of its own is at most 255 bytes long.
    for (key, value) in [("HeaderDigest", "None,".repeat(52)), ("InitialR2T", "Y".repeat(256))] {
        let answer = Answer::Settled(format!("{key}=Reject"));
        let name = format!("{key} with a value of {} bytes", value.len());
        cases.push(case(
            "CVE-2013-2850",
            name,
            State::Operational,
            next(&format!("{key}={value}\0")),
            answer,
        ));
    }
    let text = format!("{}X-b=\0", names(place));
    let answer = Answer::Settled("X-b=NotUnderstood".into());
    cases.push(case(
        "L15",
        "an empty value for a key that nobody knows",
        State::TransportUp,
        first(text.as_bytes()),
        answer,
    ));
    cases
}

/// Values beside the range of their key (13), and values that are no numbers (6.1). A number that is negotiated is
/// answered with Reject; one that is declared has no answer, and fails the login.
fn numbers() -> Vec<Case> {
    // Key, and the numbers right outside its range.
    let ranges: &[(&str, &[&str])] = &[
        ("MaxConnections", &["0", "65536"]),
        ("MaxBurstLength", &["0", "511", "16777216"]),
        ("FirstBurstLength", &["0", "511", "16777216"]),
        ("DefaultTime2Wait", &["3601"]),
        ("DefaultTime2Retain", &["3601"]),
        ("MaxOutstandingR2T", &["0", "65536"]),
        ("ErrorRecoveryLevel", &["3"]),
        ("iSCSIProtocolLevel", &["32"]),
        ("MaxRecvDataSegmentLength", &["0", "511", "16777216"]),
    ];
    let nines = "9".repeat(99);
    let no_numbers = ["", "-1", "+1", "0x", "0xzz", "1.5", " 1", "1 ", "12k", "4294967296", &nines];
    let mut cases = Vec::new();
    for (key, outside) in ranges {
        for value in outside.iter().chain(&no_numbers) {
            let declared = *key == "MaxRecvDataSegmentLength";
            let answer = if declared { INITIATOR_ERROR } else { Answer::Settled(format!("{key}=Reject")) };
            let shown = if value.len() > 20 { "99 nines" } else { value };
            let name = format!("{key}={shown}");
            cases.push(case("L19", name, State::Operational, next(&format!("{key}={value}\0")), answer));
        }
    }
    cases
}

/// Values that are none of those that a key can have (6.2.1, 6.2.2).
fn choices(place: &Place) -> Vec<Case> {
    let mut cases = Vec::new();
    for key in ["InitialR2T", "ImmediateData", "DataPDUInOrder", "DataSequenceInOrder"] {
        for value in ["", "Maybe", "yes", "NO", "1", "Yes,No"] {
            let answer = Answer::Settled(format!("{key}=Reject"));
            let name = format!("{key}={value}");
            cases.push(case("L19", name, State::Operational, next(&format!("{key}={value}\0")), answer));
        }
    }
    for key in ["HeaderDigest", "DataDigest"] {
        for value in ["", "foo", "crc32c", "NONE", "CRC32", "CRC32C ", ",", "foo,bar"] {
            let answer = Answer::Settled(format!("{key}=Reject"));
            let name = format!("{key}={value}");
            cases.push(case("L19", name, State::Operational, next(&format!("{key}={value}\0")), answer));
        }
    }
    for value in ["", "KRB5", "SRP", "none", "SPKM1,SPKM2"] {
        let text = format!("{}AuthMethod={value}\0", names(place));
        let said = Said::new(login(0, false).header(), text.as_bytes());
        let name = format!("AuthMethod={value}, and nothing else");
        cases.push(case("L19", name, State::TransportUp, said, AUTHENTICATION_FAILURE));
    }
    cases
}

/// Keys that belong to the other side, to another stage or to another time.
fn out_of_place() -> Vec<Case> {
    let reject = |key: &str| Answer::Settled(format!("{key}=Reject"));
    let mut cases = Vec::new();
    for pair in [
        "TargetAlias=mine",
        "TargetAddress=10.0.0.1:3260,1",
        "TargetPortalGroupTag=1",
        "SendTargets=All",
        "IFMarkInt=2048~65535",
        "OFMarkInt=2048~65535",
        "AuthMethod=None",
    ] {
        let (key, _) = pair.split_once('=').unwrap_or_default();
        let name = format!("{pair} from an initiator in the operational stage");
        cases.push(case("L19", name, State::Operational, next(&format!("{pair}\0")), reject(key)));
    }
    for pair in [
        "HeaderDigest=CRC32C",
        "DataDigest=CRC32C",
        "MaxConnections=2",
        "InitialR2T=No",
        "ImmediateData=No",
        "MaxBurstLength=65536",
        "FirstBurstLength=65536",
        "DefaultTime2Wait=0",
        "DefaultTime2Retain=0",
        "MaxOutstandingR2T=8",
        "DataPDUInOrder=Yes",
        "DataSequenceInOrder=Yes",
        "ErrorRecoveryLevel=0",
        "TaskReporting=RFC3720",
        "iSCSIProtocolLevel=1",
    ] {
        let (key, _) = pair.split_once('=').unwrap_or_default();
        let said = Said::new(login(0, false).header(), format!("{pair}\0").as_bytes());
        let name = format!("{pair} in the security stage");
        cases.push(case("L19", name, State::Security, said, reject(key)));
    }
    cases
}
