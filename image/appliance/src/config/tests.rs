//! Good configurations, and the line each bad one ends with.

use super::*;

const GOOD: &str = "host.address=10.77.0.2/24 service.address=10.77.1.2/24 service.gateway=10.77.1.1 \
    agent=10.77.0.1:4010 agent.insecure=yes api=8080 api.insecure=yes target.0.iqn=iqn.2026-11.example.corbel:disk0 \
    target.0.volume=nbd://10.77.1.1/ target.0.initiators=* target.1.iqn=iqn.2026-11.example.corbel:disk0 \
    target.1.lun=1 target.1.volume=nbd://10.77.1.1/b target.1.initiators=* target.1.read-only=yes target.1.removable=yes target.1.access=standby";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(&[(Channel::CommandLine, text)]).map_err(|error| error.to_string())
}

#[test]
fn a_whole_configuration_is_understood() {
    let config = parse(GOOD).expect("good");
    assert_eq!(config.host.cidr().map(|cidr| cidr.to_string()).as_deref(), Some("10.77.0.2/24"));
    assert_eq!(config.api, Some(Api { port: 8080, lock: None }));
    assert_eq!(config.targets.len(), 2);
    assert_eq!((config.targets[1].lun, config.targets[1].read_only), (1, true));
    assert_eq!((config.targets[1].access, config.port_group), (storage::AccessState::Standby, 1));
    assert_eq!(parse(&format!("{GOOD} iscsi.port-group=2")).expect("good").port_group, 2);
    assert_eq!(config.targets.iter().map(|target| target.removable).collect::<Vec<_>>(), [false, true]);
    assert_eq!((config.log, config.sharing), (log::LevelFilter::Info, Sharing::WorkConserving));
    assert_eq!((config.off.as_secs(), config.time), (30, Time::Machine));
    assert_eq!(parse(&format!("{GOOD} time=1795787159")).expect("good").time, Time::At(1_795_787_159));
    let watch = |text| parse(&format!("{GOOD} {text}")).expect("good").watchdog;
    assert_eq!((config.watchdog, watch("watchdog=off"), watch("watchdog=90")), (None, Some(0), Some(90)));
    assert_eq!(parse(&format!("{GOOD} time=unknown")).expect("good").time, Time::Unknown);
    assert_eq!(parse(&format!("{GOOD} off.within=90")).expect("good").off.as_secs(), 90);
    assert_eq!(parse(&format!("{GOOD} sharing=equal")).expect("good").sharing, Sharing::Equal);
}

#[test]
fn channels_add_up_and_a_file_may_have_comments() {
    let file = "# the host's side\nhost.address=dhcp # asked for\nhost.mac=52:54:00:77:00:02\n";
    let line = "service.address=10.77.1.2/24 virtio_mmio.device=512@0xfeb00e00:12";
    let config = Config::parse(&[(Channel::CommandLine, line), (Channel::FwCfg, file)]).expect("good");
    assert_eq!(config.host.addressing, Addressing::Dhcp);
    assert_eq!(config.host.mac, Some([0x52, 0x54, 0, 0x77, 0, 2]));
}

#[test]
fn each_fault_is_named_with_its_channel_and_key() {
    for (more, line) in [
        ("colour=red", "command line: colour: unknown key"),
        ("target.2.lun=1", "command line: target.2.lun: unknown key"),
        ("nonsense", "command line: nonsense: expected key=value"),
        ("api=8080", "command line: api: given twice"),
        (
            "config.mmds=10.0.0.1",
            "command line: config.mmds: expected yes, no, or an address of the link such as 169.254.169.254, not \"10.0.0.1\"",
        ),
        ("pci=on", "command line: pci: unknown key"),
        ("log=loud", "command line: log: expected one of off, error, warn, info, debug, trace, not \"loud\""),
        (
            "iscsi.port-group=0",
            "command line: iscsi.port-group: expected a number from 1 to 65535, not \"0\"",
        ),
        (
            "target.0.access=best",
            "command line: target.0.access: expected optimized, non-optimized or standby, not \"best\"",
        ),
        ("sharing=fair", "command line: sharing: expected work-conserving or equal, not \"fair\""),
        (
            "time=noon",
            "command line: time: expected machine, unknown, or the seconds since 1970, not \"noon\"",
        ),
        ("watchdog=4", "command line: watchdog: expected off, or 5 to 600 seconds, not \"4\""),
        ("off.within=0", "command line: off.within: expected 1 to 3600 seconds, not \"0\""),
        ("host.gateway=10.77.0.1", "command line: host.gateway: unknown key"),
        ("target.2.iqn=iqn.x", "target.2.volume: missing"),
        ("target.2.iqn=a target.2.volume=b", "target.2.initiators: missing (* for any)"),
        (
            "host.mac=01:00:00:00:00:01",
            "command line: host.mac: expected the address of one NIC, not \"01:00:00:00:00:01\"",
        ),
    ] {
        assert_eq!(parse(&format!("{GOOD} {more}")), Err(format!("configuration: {line}")), "{more}");
    }
}

#[test]
fn values_that_contradict_each_other_stop_the_boot() {
    let replace = |from: &str, to: &str| parse(&GOOD.replace(from, to)).map(|_| ());
    let overlap = replace("service.address=10.77.1.2/24", "service.address=10.77.0.9/16");
    assert_eq!(
        overlap,
        Err("configuration: service.address: 10.77.0.9/16 overlaps host.address=10.77.0.2/24".to_string())
    );
    assert!(replace("service.gateway=10.77.1.1", "service.gateway=10.78.1.1").is_err());
    assert!(replace("agent=10.77.0.1:4010", "agent=10.77.1.1:4010").is_err());
    assert!(replace("agent=10.77.0.1:4010", "agent=10.77.0.1:0").is_err());
    assert!(replace("api=8080", "api=0").is_err());
    assert!(replace("host.address=10.77.0.2/24", "host.address=10.77.0.0/24").is_err());
    assert!(replace("host.address=10.77.0.2/24", "host.address=10.77.0.255/24").is_err());
    assert!(replace("host.address=10.77.0.2/24", "host.address=10.77.0.0/31").is_ok());
    assert!(replace("host.address=10.77.0.2/24", "").is_err());
    assert!(replace("host.address=10.77.0.2/24", "host.address=127.0.0.1/8").is_err());
}

/// Each with its name in messages, in the order in which they are read.
const CHANNELS: [(Channel, &str); 10] = [
    (Channel::CommandLine, "command line"),
    (Channel::Module, "PVH module"),
    (Channel::BootDisk, "corbel.cfg"),
    (Channel::Cidata, "cidata"),
    (Channel::Smbios, "SMBIOS OEM strings"),
    (Channel::FwCfg, "fw_cfg opt/corbel/config"),
    (Channel::Mmds, "MMDS"),
    (Channel::GuestInfo, "guestinfo.corbel.config"),
    (Channel::Arguments, "arguments"),
    (Channel::File, "--config"),
];

#[test]
fn two_channels_may_not_contradict_each_other() {
    for (first, one) in CHANNELS {
        for (second, other) in CHANNELS {
            let error = Config::parse(&[(first, GOOD), (second, "api=80")]).expect_err("two values");
            assert_eq!(error.to_string(), format!("configuration: {other}: api: contradicts {one}"));
            let same = Config::parse(&[(first, GOOD), (second, "api=8080")]).expect("the same twice");
            assert_eq!(Ok(same), parse(GOOD));
        }
    }
    let three =
        [(Channel::CommandLine, GOOD), (Channel::Module, "api=8080"), (Channel::FwCfg, "api=8080 api=8080")];
    let error = Config::parse(&three).expect_err("twice by one");
    assert_eq!(error.to_string(), "configuration: fw_cfg opt/corbel/config: api: given twice");
}

#[test]
fn what_is_needed_first_is_known_before_the_rest() {
    let first = |text: &str| Config::first(&[(Channel::CommandLine, text)]);
    let all = first("host.address=dhcp log=off config.mmds=yes virtio_mmio.device=4K@0xc0001000:5 pci=off")
        .expect("good");
    let at = |last| Some(Metadata { address: Ipv4Addr::from(last), nics: Asked::All });
    assert_eq!((all.log, all.metadata), (log::LevelFilter::Off, at([169, 254, 169, 254])));
    let other = first("config.mmds=169.254.170.2").expect("good");
    assert_eq!((other.log, other.metadata), (log::LevelFilter::Info, at([169, 254, 170, 2])));
    assert_eq!(first("config.mmds=no").expect("good").metadata, None);
    assert!(first("log=loud").is_err() && first("a=b a=c").is_err());
    assert!(parse(&format!("{GOOD} config.mmds=yes pci=off")).is_ok());
}

#[test]
fn no_text_makes_it_panic() {
    let mut seed = 1_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..seed % 40 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let pieces = [
                "host.",
                "address",
                "=",
                "10.77.0.2",
                "/",
                "24",
                "target.0.",
                "iqn",
                " ",
                "#",
                "\n",
                "é",
                "\0",
                ":",
            ];
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
        drop(parse(&text));
    }
}

/// Keys about TLS, of nobody.
const TLS: &str = include_str!("tls.conf");

/// All of [`TLS`] but one key.
fn without(key: &str) -> String {
    let mut lines: Vec<&str> = TLS.lines().collect();
    lines.retain(|line| !line.starts_with(key));
    lines.join("\n")
}

#[test]
fn certificates_and_a_key_come_in_base64() {
    let config = with_file(TLS).expect("good");
    let tls = config.tls.clone().expect("there");
    assert_eq!((tls.anchors.len(), tls.dates), (2, network_tls::Dates::CheckedWhenTimeIsKnown));
    let (chain, key) = tls.identity.expect("there");
    assert_eq!(chain.len(), 1);
    let debug = format!("{config:?}");
    assert!(!debug.contains(&format!("{:?}", &key[..8]).replace(['[', ']'], "")), "{debug}");
    assert_eq!(parse(GOOD).expect("good").tls, None);
}

#[test]
fn what_is_wrong_with_tls_is_named_by_its_key_and_never_shown() {
    let key = TLS.lines().find_map(|line| line.strip_prefix("tls.key=")).expect("there");
    let long = "expected the base64 between the lines BEGIN and END of a PEM file";
    for (text, line) in [
        (without("tls.anchors"), "tls.anchors: missing beside tls.certificate".to_string()),
        (without("tls.certificate"), "tls.certificate: missing beside tls.key".to_string()),
        (without("tls.key"), "tls.key: missing beside tls.certificate".to_string()),
        (without("tls.dates"), "tls.dates: missing beside tls.anchors".to_string()),
        ("tls.dates=checked".to_string(), "tls.anchors: missing beside tls.dates".to_string()),
        (TLS.replace("if-known", "never"), "tls.dates: expected checked or if-known".to_string()),
        (TLS.replace("tls.key=", "tls.key=?"), format!("tls.key: {long}")),
        (TLS.replace("tls.certificate=", "tls.certificate=,"), format!("tls.certificate: {long}")),
        (
            without("tls.anchors") + "\ntls.anchors=aGVsbG8=",
            "tls.anchors: authorities: certificate 1".to_string(),
        ),
        (without("tls.key") + "\ntls.key=aGVsbG8=", "tls.key: private key".to_string()),
    ] {
        let refused = with_file(&text).expect_err(&line);
        assert!(refused.contains(&line), "{refused} instead of {line}");
        assert!(!refused.contains(&key[..16]), "{refused}");
    }
}

/// Accounts, as a file has them.
const CHAP: &str = "target.0.chap.0.user=host target.0.chap.0.secret=what-the-host-knows\n\
    target.0.chap.0.target-user=disk target.0.chap.0.target-secret=what-the-disk-knows\n\
    target.0.chap.1.user=other target.0.chap.1.secret=what-the-other-knows\n\
    target.0.chap.1.initiator=iqn.2026-11.example:other\n\
    target.0.chap.algorithms=sha3-256,sha-256\n\
    discovery.chap.0.user=anybody discovery.chap.0.secret=what-everybody-knows\n";

fn with_file(file: &str) -> Result<Config, String> {
    Config::parse(&[(Channel::CommandLine, GOOD), (Channel::FwCfg, file)]).map_err(|error| error.to_string())
}

#[test]
fn accounts_come_from_a_file_and_are_never_shown() {
    let config = with_file(CHAP).expect("good");
    let access = config.targets[0].chap.as_ref().expect("there");
    assert_eq!(access.initiators().collect::<Vec<_>>(), ["iqn.2026-11.example:other"]);
    assert!(config.targets[1].chap.is_none() && config.discovery.is_some());
    let debug = format!("{config:?}");
    assert!(debug.contains("host") && !debug.contains("knows"), "{debug}");
}

#[test]
fn what_is_wrong_with_an_account_is_named_by_its_key_and_a_secret_never_shown() {
    let replace = |from: &str, to: &str| {
        assert!(CHAP.contains(from));
        with_file(&CHAP.replace(from, to)).expect_err(to)
    };
    for (from, to, line) in [
        ("what-the-host-knows", "knows", "target.0.chap.0.secret: a secret has 12 to 255 bytes"),
        (
            "target.0.chap.0.secret=what-the-host-knows",
            "",
            "chap.0.secret: missing beside target.0.chap.0.user",
        ),
        ("target.0.chap.1.user=other", "", "chap.1.user: missing beside target.0.chap.1.secret"),
        ("target.0.chap.0.target-user=disk", "", "missing beside target.0.chap.0.target-secret"),
        ("what-the-disk-knows", "what-the-host-knows", "target.0.chap: a secret of an initiator is also"),
        ("sha3-256,", "md4,", "target.0.chap.algorithms: expected some of md5"),
        ("chap.1.", "chap.2.", "target.0.chap.2.initiator: unknown key"),
        ("discovery.chap.0.user=anybody", "", "discovery.chap.0.user: missing beside"),
    ] {
        let refused = replace(from, to);
        assert!(refused.contains(line), "{refused} instead of {line}");
        assert!(!refused.contains("knows"), "{refused}");
    }
    let alone = with_file("discovery.chap.algorithms=md5").expect_err("nobody");
    assert!(alone.contains("discovery.chap: 1 to 32 accounts"), "{alone}");
}

#[test]
fn a_secret_has_no_place_on_a_command_line() {
    for channel in [Channel::CommandLine, Channel::Smbios, Channel::Arguments] {
        let text = format!("{GOOD} {CHAP}");
        // Nor beside a file that has the same.
        for channels in
            [&[(channel, &*text)][..], &[(Channel::File, GOOD), (Channel::File, CHAP), (channel, &*text)]]
        {
            let refused = Config::parse(channels).expect_err("a secret").to_string();
            assert!(refused.contains("chap.0.secret: a secret belongs into a file"), "{refused}");
            assert!(!refused.contains("knows"), "{refused}");
        }
    }
    let both = [(Channel::Arguments, GOOD), (Channel::File, CHAP)];
    assert!(Config::parse(&both).is_ok());
}

#[test]
fn nor_has_a_private_key_or_a_token() {
    let api = "api.tls.certificate=aGVsbG8=\napi.tls.key=aGVsbG8=\napi.tls.dates=checked\n";
    let anchors = TLS.lines().find(|line| line.starts_with("tls.anchors=")).expect("there");
    for (key, text) in [
        ("tls.key", TLS.to_string()),
        ("api.tls.key", format!("api.{anchors}\n{api}")),
        ("api.tls.join", "api.tls.join=0123456789abcdef0123456789abcdef".to_string()),
        ("agent.key", format!("agent.pin={}\nagent.key=aGVsbG8=", "a5".repeat(32))),
    ] {
        for channel in [Channel::CommandLine, Channel::Smbios, Channel::Arguments] {
            for channels in [&[(channel, &*text)][..], &[(Channel::File, &*text), (channel, &*text)]] {
                let channels = [&[(Channel::File, GOOD)], channels].concat();
                let refused = Config::parse(&channels).expect_err("a secret").to_string();
                assert_eq!(refused, format!("configuration: {channel}: {key}: a secret belongs into a file"));
            }
        }
        let refused = Config::parse(&[(Channel::File, GOOD), (Channel::FwCfg, &text)]).map(drop);
        assert!(refused.is_ok() || !refused.unwrap_err().to_string().contains("belongs"), "{key}");
    }
}

#[test]
fn nobody_goes_unasked_unless_the_operator_says_so() {
    let asked = GOOD.replace(" agent.insecure=yes", "").replace(" api.insecure=yes", "");
    let api = "configuration: api.tls.anchors: missing: callers have to prove who they are, unless \
               api.insecure=yes says otherwise";
    assert_eq!(parse(&format!("{asked} agent.insecure=yes")), Err(api.to_string()));
    let agent = "configuration: agent.pin: missing: the agent has to prove who it is, unless \
                 agent.insecure=yes says otherwise";
    assert_eq!(parse(&format!("{asked} api.insecure=yes")), Err(agent.to_string()));
    let join = "api.tls.join=0123456789abcdef0123456789abcdef";
    for more in ["api.trust-domain=example.org", join, "api.signatures=required"] {
        assert!(with_file(more).is_err_and(|why| why.contains("api.insecure: contradicts")));
    }
    let pin = "a5".repeat(32);
    assert!(
        parse(&format!("{GOOD} agent.pin={pin}")).is_err_and(|why| why.contains("contradicts agent.pin"))
    );
    assert!(parse(&format!("{asked} api.insecure=yes agent.pin={pin}")).is_ok());
    assert!(parse(&format!("{asked} api.insecure=yes agent.pin=a5")).is_err());
}
