//! Every path of the negotiation, from scripted bytes: whole, and byte by byte.

use super::{drain, feed};
use crate::testing::{Disk, Session, Settings, option_reply_bytes};
use crate::wire::{info, option, option_reply};
use crate::{
    BlockSizes, Client, Event, Export, Fatal, Limits, Listed, Listing, Refusal, TransmissionFlags, wire,
};
use core::time::Duration;
use kernel_runtime::Instant;

const SIZE: u64 = 1 << 30;
const FLAGS: u16 = 0b1110_1101;

fn greeting(flags: u16) -> Vec<u8> {
    let magics = [wire::GREETING_MAGIC.to_be_bytes(), wire::OPTION_MAGIC.to_be_bytes()].concat();
    [&magics[..], &flags.to_be_bytes()].concat()
}

fn ack(code: u32) -> Vec<u8> {
    option_reply_bytes(code, option_reply::ACK, &[])
}

fn refusal(code: u32, kind: u32, words: &str) -> Vec<u8> {
    option_reply_bytes(code, kind, words.as_bytes())
}

fn fact(kind: u16, payload: &[u8]) -> Vec<u8> {
    option_reply_bytes(option::GO, option_reply::INFO, &[&kind.to_be_bytes(), payload].concat())
}

fn export_fact(size: u64, flags: u16) -> Vec<u8> {
    fact(info::EXPORT, &[&size.to_be_bytes()[..], &flags.to_be_bytes()].concat())
}

fn sizes_fact(minimum: u32, preferred: u32, maximum: u32) -> Vec<u8> {
    let bytes: Vec<u8> = [minimum, preferred, maximum].iter().flat_map(|size| size.to_be_bytes()).collect();
    fact(info::BLOCK_SIZE, &bytes)
}

fn context(number: u32, name: &str) -> Vec<u8> {
    let payload = [&number.to_be_bytes(), name.as_bytes()].concat();
    option_reply_bytes(option::SET_META_CONTEXT, option_reply::META_CONTEXT, &payload)
}

/// The words of a server that does not know extended headers.
fn compact() -> Vec<u8> {
    [greeting(3), refusal(option::EXTENDED_HEADERS, option_reply::ERR_UNSUP, "what?")].concat()
}

/// The server's part up to GO, structured replies and the context agreed on.
fn before_go() -> Vec<u8> {
    let structured = ack(option::STRUCTURED_REPLY);
    [compact(), structured, context(9, "base:allocation"), ack(option::SET_META_CONTEXT)].concat()
}

/// The whole of a server's part with these replies to GO before the acknowledgement.
fn going(facts: &[Vec<u8>]) -> Vec<u8> {
    [before_go(), facts.concat(), ack(option::GO)].concat()
}

fn client() -> Client {
    let mut client = Client::new(&Limits::DEFAULT, "disk").expect("sound limits");
    client.connected(Instant::ZERO);
    client
}

/// Negotiate with a scripted server, by all at once and byte by byte; both must end the same.
fn negotiate(script: &[u8]) -> Result<(Client, Vec<u8>), Fatal> {
    let outcome = |step: usize| {
        let mut client = client();
        let mut said = drain(&mut client);
        let mut rest = script;
        while !rest.is_empty() && client.export().is_none() {
            let room = client.space().len();
            let count = room.min(rest.len()).min(step);
            feed(&mut client, &rest[..count], step)?;
            rest = &rest[count..];
            said.extend(drain(&mut client));
        }
        Ok((client, said))
    };
    let (whole, single) = (outcome(usize::MAX), outcome(1));
    match (&whole, &single) {
        (Ok((_, said)), Ok((_, other))) => assert_eq!(said, other),
        (Err(fatal), Err(other)) => assert_eq!(fatal, other),
        _ => panic!("the outcome depends on how the bytes came"),
    }
    whole
}

fn export(script: &[u8]) -> Result<Export, Fatal> {
    let (mut client, _) = negotiate(script)?;
    assert!(matches!(client.poll_event(), Some(Event::Ready)));
    assert!(client.poll_event().is_none());
    Ok(*client.export().expect("an export"))
}

/// The options among what a client said, with the client's flags.
fn options(said: &[u8]) -> (u32, Vec<(u32, Vec<u8>)>) {
    let mut rest = &said[4..];
    let mut options = Vec::new();
    while !rest.is_empty() {
        assert_eq!(wire::u64_at(rest, 0), wire::OPTION_MAGIC);
        let end = 16 + wire::u32_at(rest, 12) as usize;
        options.push((wire::u32_at(rest, 8), rest[16..end].to_vec()));
        rest = &rest[end..];
    }
    (wire::u32_at(said, 0), options)
}

#[test]
fn the_full_negotiation_asks_one_option_after_the_other() {
    let script = going(&[
        export_fact(SIZE, FLAGS),
        fact(info::NAME, b"canonical"),
        fact(info::DESCRIPTION, b"a disk\x1b[2J"),
        sizes_fact(512, 65536, 1 << 20),
        fact(77, b"of the future"),
    ]);
    let (client, said) = negotiate(&script).expect("sound");
    let (flags, options) = options(&said);
    assert_eq!(flags, 3);
    let codes: Vec<_> = options.iter().map(|(code, _)| *code).collect();
    let first = [option::EXTENDED_HEADERS, option::STRUCTURED_REPLY];
    assert_eq!(codes, [&first[..], &[option::SET_META_CONTEXT, option::GO]].concat());
    let contexts = b"\0\0\0\x04disk\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x15x-corbel:incarnation:";
    assert_eq!(options[2].1, contexts);
    assert_eq!(options[3].1, b"\0\0\0\x04disk\0\x03\0\x01\0\x02\0\x03");
    let export = client.export().expect("an export");
    assert_eq!((&*export.name, &*export.description), ("canonical", "a disk\u{fffd}[2J"));
    assert!(export.structured && export.allocation == Some(9));
    assert_eq!(export.block_sizes, BlockSizes { minimum: 512, preferred: 65536, maximum: 1 << 20 });
    let geometry = export.geometry;
    assert_eq!((geometry.size, geometry.block_size, geometry.preferred_block), (SIZE, 512, 65536));
    assert_eq!(geometry.max_transfer, 1 << 20);
    assert!(geometry.flush && geometry.fua && geometry.trim && geometry.write_zeroes);
    assert!(!geometry.read_only && !geometry.cache && !geometry.rotational);
}

#[test]
fn the_next_option_is_asked_only_after_the_last_reply_to_the_one_before() {
    let mut client = client();
    feed(&mut client, &compact(), usize::MAX).expect("sound");
    assert_eq!(options(&drain(&mut client)).1.len(), 2);
    feed(&mut client, &ack(option::STRUCTURED_REPLY), usize::MAX).expect("sound");
    assert!(!drain(&mut client).is_empty());
    feed(&mut client, &context(1, "base:allocation"), usize::MAX).expect("sound");
    assert!(drain(&mut client).is_empty(), "more contexts may follow");
}

#[test]
fn what_is_only_good_to_have_is_done_without() {
    let refusals = [
        option_reply::ERR_UNSUP,
        option_reply::ERR_POLICY,
        option_reply::ERR_INVALID,
        option_reply::ERR_PLATFORM,
        option_reply::ERR_UNKNOWN,
        option_reply::ERR_BLOCK_SIZE_REQD,
        option_reply::ERR_TOO_BIG,
        option_reply::ERR_EXT_HEADER_REQD,
        option_reply::ERROR + 4711,
    ];
    let end = [export_fact(SIZE, FLAGS), ack(option::GO)].concat();
    for kind in refusals {
        let plain = [compact(), refusal(option::STRUCTURED_REPLY, kind, "no"), end.clone()].concat();
        let plain = export(&plain).expect("simple replies do");
        assert!(!plain.structured && plain.allocation.is_none());
        let refused = refusal(option::SET_META_CONTEXT, kind, "no");
        // Without the contexts that it may not know it is asked once more, unless it knows none at all.
        let again = if kind == option_reply::ERR_UNSUP { Vec::new() } else { refused.clone() };
        let contextless = [
            compact(),
            ack(option::STRUCTURED_REPLY),
            context(1, "base:allocation"),
            refused,
            again,
            end.clone(),
        ];
        let contextless = export(&contextless.concat()).expect("no context does");
        assert!(contextless.structured && contextless.allocation.is_none() && !contextless.geometry.status);
    }
    let other = [
        compact(),
        ack(option::STRUCTURED_REPLY),
        context(1, "base:dirty"),
        ack(option::SET_META_CONTEXT),
        end,
    ];
    assert_eq!(export(&other.concat()).map(|export| export.allocation), Ok(None));
}

#[test]
fn what_is_needed_and_refused_ends_the_connection_with_the_servers_reason() {
    let cases = [
        (option_reply::ERR_POLICY, Refusal::Policy),
        (option_reply::ERR_INVALID, Refusal::Invalid),
        (option_reply::ERR_PLATFORM, Refusal::Platform),
        (option_reply::ERR_TLS_REQD, Refusal::TlsRequired),
        (option_reply::ERR_UNKNOWN, Refusal::UnknownExport),
        (option_reply::ERR_SHUTDOWN, Refusal::ShuttingDown),
        (option_reply::ERR_BLOCK_SIZE_REQD, Refusal::BlockSizeRequired),
        (option_reply::ERR_TOO_BIG, Refusal::TooBig),
        (option_reply::ERR_EXT_HEADER_REQD, Refusal::ExtendedHeadersRequired),
        (u32::MAX, Refusal::Other(u32::MAX)),
    ];
    for (kind, reason) in cases {
        let script = [before_go(), refusal(option::GO, kind, "why\nnot")].concat();
        assert_eq!(negotiate(&script).err(), Some(Fatal::Refused { option: option::GO, reason }));
        let mut client = client();
        assert!(feed(&mut client, &script, usize::MAX).is_err());
        assert_eq!(&**client.remark(), "why\u{fffd}not");
        assert!(drain(&mut client).is_empty(), "not another word");
        assert_eq!(client.received(Instant::ZERO, 1), Err(Fatal::Refused { option: option::GO, reason }));
    }
    for kind in [option_reply::ERR_TLS_REQD, option_reply::ERR_SHUTDOWN] {
        for option in [option::EXTENDED_HEADERS, option::STRUCTURED_REPLY] {
            let before = if option == option::EXTENDED_HEADERS { greeting(3) } else { compact() };
            let reason = Refusal::of(kind);
            let script = [before, refusal(option, kind, "")].concat();
            assert_eq!(negotiate(&script).err(), Some(Fatal::Refused { option, reason }));
        }
    }
}

#[test]
fn a_server_without_go_is_entered_by_name() {
    let unsup = refusal(option::GO, option_reply::ERR_UNSUP, "");
    let answer = [&SIZE.to_be_bytes()[..], &FLAGS.to_be_bytes()].concat();
    for flags in [1, 3] {
        let structured = refusal(option::STRUCTURED_REPLY, option_reply::ERR_UNSUP, "");
        let extended = refusal(option::EXTENDED_HEADERS, option_reply::ERR_UNSUP, "");
        let mut script = [greeting(flags), extended, structured, unsup.clone(), answer.clone()].concat();
        if flags == 1 {
            let (client, _) = negotiate(&script).expect("sound so far");
            assert!(client.export().is_none(), "zeroes are to follow");
            script.resize(script.len() + 124, 0);
        }
        let (client, said) = negotiate(&script).expect("sound");
        let (echoed, options) = options(&said);
        assert_eq!(echoed, u32::from(flags));
        assert_eq!(options.last(), Some(&(option::EXPORT_NAME, b"disk".to_vec())));
        assert_eq!(client.export().expect("an export").size, SIZE);
    }
    // Structured replies that were agreed on stay agreed on.
    let script = [before_go(), sizes_fact(8192, 8192, 8192), unsup, answer].concat();
    let export = export(&script).expect("what was said in reply to GO is void");
    assert!(export.structured && export.allocation == Some(9) && export.block_sizes == BlockSizes::DEFAULT);
}

#[test]
fn a_greeting_that_is_cut_is_waited_for_and_a_wrong_one_is_refused_at_its_first_wrong_byte() {
    let whole = greeting(3);
    for cut in 0..whole.len() {
        let mut client = client();
        feed(&mut client, &whole[..cut], usize::MAX).expect("sound so far");
        assert!(drain(&mut client).is_empty() && client.poll_event().is_none());
    }
    for wrong in 0..8 {
        let mut bytes = whole.clone();
        bytes[wrong] ^= 0x20;
        assert_eq!(feed(&mut client(), &bytes[..=wrong], 1), Err(Fatal::NotNbd));
        assert_eq!(feed(&mut client(), &bytes, usize::MAX), Err(Fatal::NotNbd));
    }
    for wrong in 8..16 {
        let mut bytes = whole.clone();
        bytes[wrong] ^= 0x20;
        assert_eq!(feed(&mut client(), &bytes[..16], 1), Err(Fatal::NotNbd));
    }
    let oldstyle = [&wire::GREETING_MAGIC.to_be_bytes()[..], &wire::OLDSTYLE_MAGIC.to_be_bytes()].concat();
    assert_eq!(feed(&mut client(), &oldstyle, 1), Err(Fatal::Oldstyle));
    for flags in [0, 2, 0xfffe] {
        assert_eq!(feed(&mut client(), &greeting(flags), 1), Err(Fatal::NotFixedNewstyle));
    }
    assert_eq!(feed(&mut client(), b"SSH-2.0-OpenSSH\r\n", 1), Err(Fatal::NotNbd));
}

#[test]
fn only_flags_that_the_server_offers_are_echoed() {
    for (flags, echoed) in [(1, 1), (3, 3), (0xffff, 3)] {
        let mut client = client();
        feed(&mut client, &greeting(flags), usize::MAX).expect("sound");
        assert_eq!(options(&drain(&mut client)).0, echoed);
    }
}

#[test]
fn replies_that_cannot_be_are_refused_by_their_header_alone() {
    let header = |code: u32, kind: u32, length: u32| {
        let mut bytes = option_reply_bytes(code, kind, &[]);
        bytes[16..20].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let structured = option::STRUCTURED_REPLY;
    let after_greeting = |reply: Vec<u8>| negotiate(&[compact(), reply].concat()).err();
    let after_go = |reply: Vec<u8>| negotiate(&[before_go(), reply].concat()).err();

    let mut magic = ack(structured);
    magic[7] ^= 1;
    assert_eq!(after_greeting(magic), Some(Fatal::OptionReplyMagic));
    let wrong = Fatal::WrongOption { asked: structured, answered: option::GO };
    assert_eq!(after_greeting(ack(option::GO)), Some(wrong));
    for reply in [option_reply::INFO, option_reply::SERVER, option_reply::META_CONTEXT, 0, 5, 0x7fff_ffff] {
        let unexpected = Fatal::UnexpectedReply { option: structured, reply };
        assert_eq!(after_greeting(header(structured, reply, 4)), Some(unexpected));
    }
    let too_long = |option, reply, length| Some(Fatal::ReplyLength { option, reply, length });
    for length in [1, u32::MAX] {
        let reply = header(structured, option_reply::ACK, length);
        assert_eq!(after_greeting(reply), too_long(structured, option_reply::ACK, length));
    }
    for length in [4097, 1 << 31, u32::MAX] {
        let reply = header(structured, option_reply::ERR_UNSUP, length);
        assert_eq!(after_greeting(reply), too_long(structured, option_reply::ERR_UNSUP, length));
    }
    for length in [0, 1, 4099, u32::MAX] {
        let reply = header(option::GO, option_reply::INFO, length);
        assert_eq!(after_go(reply), too_long(option::GO, option_reply::INFO, length));
    }
    for (kind, length) in
        [(info::EXPORT, 9), (info::EXPORT, 11), (info::BLOCK_SIZE, 11), (info::BLOCK_SIZE, 13)]
    {
        let reply = fact(kind, &vec![0; length]);
        assert_eq!(after_go(reply), too_long(option::GO, option_reply::INFO, 2 + length as u32));
    }
}

#[test]
fn texts_of_the_greatest_length_are_taken_and_bounded() {
    let words = "é".repeat(2048);
    let script = going(&[
        fact(info::DESCRIPTION, words.as_bytes()),
        fact(info::NAME, words.as_bytes()),
        export_fact(SIZE, FLAGS),
    ]);
    let export = export(&script).expect("sound");
    assert!(export.description.len() <= 255 && export.description.ends_with("é…"));
    let script = [before_go(), refusal(option::GO, option_reply::ERR_UNKNOWN, &words)].concat();
    assert!(negotiate(&script).is_err());
}

#[test]
fn facts_without_end_and_facts_told_twice_are_refused() {
    let flood = [before_go(), fact(99, b"").repeat(65)].concat();
    assert_eq!(negotiate(&flood).err(), Some(Fatal::TooManyReplies { option: option::GO }));
    let twice = going(&[export_fact(SIZE, FLAGS), export_fact(SIZE, FLAGS)]);
    assert_eq!(negotiate(&twice).err(), Some(Fatal::ExportInfo));
    assert_eq!(negotiate(&going(&[sizes_fact(1, 4096, 65536)])).err(), Some(Fatal::ExportInfo));
    let contexts =
        |numbers: &[u32]| numbers.iter().flat_map(|&number| context(number, "x")).collect::<Vec<_>>();
    let selecting = |numbers: &[u32]| {
        negotiate(&[compact(), ack(option::STRUCTURED_REPLY), contexts(numbers)].concat()).err()
    };
    let flood = Fatal::TooManyReplies { option: option::SET_META_CONTEXT };
    assert_eq!(selecting(&[1, 2, 3, 4]), Some(flood));
    assert_eq!(selecting(&[1, 2, 1]), Some(Fatal::ContextTwice(1)));
}

#[test]
fn sizes_that_cannot_be_a_disk_are_refused() {
    let with_size = |size| export(&going(&[export_fact(size, FLAGS)])).map(|export| export.geometry.size);
    for size in [0, 1, 511, 1 << 63, u64::MAX] {
        assert_eq!(with_size(size), Err(Fatal::Size(size)));
    }
    assert_eq!(with_size(512), Ok(512));
    assert_eq!(with_size(1000), Ok(512), "rounded down to a block");
    assert_eq!(with_size((1 << 63) - 1), Ok((1 << 63) - 512));
    let no_flags = going(&[export_fact(SIZE, FLAGS & !1)]);
    assert_eq!(export(&no_flags).err(), Some(Fatal::NoTransmissionFlags));
}

#[test]
fn block_sizes_are_obeyed_or_refused() {
    let with_sizes = |size: u64, minimum, preferred, maximum| {
        export(&going(&[export_fact(size, FLAGS), sizes_fact(minimum, preferred, maximum)]))
    };
    let shape = |minimum, preferred, maximum| {
        let geometry = with_sizes(SIZE, minimum, preferred, maximum).expect("usable").geometry;
        (geometry.block_size, geometry.preferred_block, geometry.max_transfer)
    };
    assert_eq!(shape(1, 512, u32::MAX), (512, 512, 32 << 20));
    assert_eq!(shape(512, 4096, 65536), (512, 4096, 65536));
    assert_eq!(shape(1024, 1024, 65536), (4096, 4096, 65536));
    assert_eq!(shape(4096, 4096, 4096), (4096, 4096, 4096));
    assert_eq!(shape(1, 512, 1000), (512, 512, 512));
    assert_eq!(shape(1, 65536, 100_000), (512, 65536, 99_840));
    let nonsense = [
        (0, 4096, 65536),
        (3, 4096, 65536),
        (1 << 17, 1 << 17, 1 << 20),
        (1, 0, 65536),
        (1, 256, 65536),
        (1, 5000, 65536),
        (4096, 2048, 65536),
        (1, 4096, 2048),
        (1, 4096, 0),
        (2048, 2048, 2048),
    ];
    for (minimum, preferred, maximum) in nonsense {
        let refused = with_sizes(SIZE, minimum, preferred, maximum).err();
        assert_eq!(refused, Some(Fatal::BlockSizes { minimum, preferred, maximum }));
    }
    for minimum in [8192, 65536] {
        let refused = with_sizes(SIZE, minimum, 65536, 1 << 20).err();
        assert_eq!(refused, Some(Fatal::MinimumBlock(minimum)));
    }
    let refused = with_sizes(SIZE + 512, 4096, 4096, 65536).err();
    assert_eq!(refused, Some(Fatal::SizeNotMultiple { size: SIZE + 512, minimum: 4096 }));
    assert_eq!(with_sizes(2048, 1024, 4096, 65536).err(), Some(Fatal::Size(2048)));
}

#[test]
fn flush_stands_in_for_fua_and_nothing_stands_in_for_flush() {
    let with = |flags: TransmissionFlags| {
        let geometry = export(&going(&[export_fact(SIZE, 1 | flags.0)])).expect("usable").geometry;
        (geometry.flush, geometry.fua)
    };
    assert_eq!(with(TransmissionFlags(0)), (false, false));
    assert_eq!(with(TransmissionFlags::SEND_FLUSH), (true, true));
    assert_eq!(with(TransmissionFlags::SEND_FUA), (false, true));
}

#[test]
fn a_name_has_at_most_4096_bytes_and_the_longest_fits() {
    assert!(Client::new(&Limits::DEFAULT, &"n".repeat(4097)).is_err());
    for (slots, fine) in [(0, false), (1, true), (16383, true), (16384, false)] {
        assert_eq!(Client::new(&Limits { slots, ..Limits::DEFAULT }, "").is_ok(), fine);
    }
    for go in [true, false] {
        let settings = Settings { name: "n".repeat(4096), go, no_zeroes: false, ..Settings::default() };
        super::Pair::new(&settings, 1 << 20).session.assert_obeyed();
    }
}

#[test]
fn no_request_is_taken_before_the_caller_has_seen_the_export() {
    let (mut client, _) = negotiate(&going(&[export_fact(SIZE, FLAGS)])).expect("sound");
    assert!(client.export().is_some() && !client.is_ready() && client.free_slots() == 0);
    assert!(matches!(client.poll_event(), Some(Event::Ready)));
    assert!(client.is_ready() && client.free_slots() == Limits::DEFAULT.slots);
}

#[test]
fn a_second_connection_negotiates_from_the_start() {
    let settings = Settings::default();
    let mut pair = super::Pair::new(&settings, 1 << 20);
    assert!(pair.client.export().expect("known").structured);
    let plain = Settings { structured: false, go: false, ..settings };
    pair.connect(&plain);
    let export = pair.client.export().expect("known");
    assert!(!export.structured && export.allocation.is_none());
    assert_eq!(pair.client.counters().connections, 2);
}

#[test]
fn exports_are_listed_one_by_one() {
    let settings = Settings::default();
    let mut session = Session::new(&settings, &Disk::new(4096));
    let mut listing = Listing::new(Instant::ZERO, 8, Duration::from_secs(10));
    let mut names = Vec::new();
    'finished: loop {
        while let Some(bytes) = listing.poll_transmit() {
            session.receive(bytes);
            let count = bytes.len();
            listing.transmitted(count);
        }
        let output = core::mem::take(&mut session.output);
        let mut rest = &output[..];
        while !rest.is_empty() {
            let space = listing.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            match listing.received(count).expect("sound") {
                Listed::Nothing => {}
                Listed::Export(entry) => names.push((entry.name.to_vec(), entry.description().to_string())),
                Listed::Finished => break 'finished,
            }
        }
    }
    assert_eq!(names, [(b"disk".to_vec(), "in memory".to_string())]);
    assert_eq!(listing.handle_timeout(super::at(60_000_000)), Ok(()));
}

#[test]
fn a_list_without_end_or_with_a_name_longer_than_its_reply_is_refused() {
    let listed = |script: &[u8], most: u32| {
        let mut listing = Listing::new(Instant::ZERO, most, Duration::from_secs(10));
        let mut rest = script;
        while !rest.is_empty() {
            let space = listing.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            listing.received(count)?;
        }
        listing.handle_timeout(super::at(10_000_000))
    };
    let server = |name_length: u32, rest: &[u8]| {
        let payload = [&name_length.to_be_bytes(), rest].concat();
        option_reply_bytes(option::LIST, option_reply::SERVER, &payload)
    };
    let flood = [greeting(3), server(1, b"a").repeat(1_000)].concat();
    assert_eq!(listed(&flood, 999), Err(Fatal::TooManyReplies { option: option::LIST }));
    for length in [2, 4097, u32::MAX] {
        let wrong = Fatal::ReplyLength { option: option::LIST, reply: option_reply::SERVER, length };
        assert_eq!(listed(&[greeting(3), server(length, b"a")].concat(), 9), Err(wrong));
    }
    let refused = [greeting(3), refusal(option::LIST, option_reply::ERR_POLICY, "secret")].concat();
    let policy = Fatal::Refused { option: option::LIST, reason: Refusal::Policy };
    assert_eq!(listed(&refused, 9), Err(policy));
    assert_eq!(listed(&greeting(3), 9), Err(Fatal::HandshakeTimeout));
}
