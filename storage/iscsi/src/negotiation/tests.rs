//! Each key by its kind, and the table itself.

use super::keys::{KEYS, find};
use super::*;

fn answers(offers: &[(&str, &str)]) -> (String, Parameters) {
    let mut negotiation = Negotiation::new(&Limits::default());
    let text: String = offers.iter().map(|(key, value)| format!("{key}={value}\0")).collect();
    negotiation.foresee(text.as_bytes());
    let mut out = [0; 4096];
    let mut writer = Writer::new(&mut out);
    for (key, value) in offers {
        negotiation
            .offer(Stage::Operational, key, value, &mut writer)
            .expect("an offer that can be answered");
    }
    let length = writer.length();
    (String::from_utf8(out[..length].to_vec()).unwrap().replace('\0', " "), negotiation.parameters)
}

#[test]
fn rows_stand_at_the_places_of_their_keys_and_names_are_unique() {
    for (index, row) in KEYS.iter().enumerate() {
        assert_eq!(row.key as usize, index);
        assert_eq!(find(row.name).map(|found| found.key), Some(row.key));
    }
    assert!(KEYS.len() <= u32::BITS as usize, "one bit each");
}

#[test]
fn each_key_is_answered_as_its_kind_says() {
    for (key, value, answer) in [
        ("HeaderDigest", "CRC32C,None", "HeaderDigest=CRC32C "),
        ("HeaderDigest", "None,CRC32C", "HeaderDigest=None "),
        ("HeaderDigest", "foo,CRC32C", "HeaderDigest=CRC32C "),
        ("HeaderDigest", "foo", "HeaderDigest=Reject "),
        ("DataDigest", "", "DataDigest=Reject "),
        ("MaxConnections", "65535", "MaxConnections=4 "),
        ("MaxConnections", "65536", "MaxConnections=Reject "),
        ("MaxConnections", "0", "MaxConnections=Reject "),
        ("InitialR2T", "No", "InitialR2T=No "),
        ("InitialR2T", "Yes", "InitialR2T=Yes "),
        ("InitialR2T", "yes", "InitialR2T=Reject "),
        ("ImmediateData", "Yes", "ImmediateData=Yes "),
        ("ImmediateData", "No", "ImmediateData=No "),
        ("MaxBurstLength", "16776192", "MaxBurstLength=1048576 "),
        ("MaxBurstLength", "0x1000", "MaxBurstLength=4096 "),
        ("MaxBurstLength", "511", "MaxBurstLength=Reject "),
        ("MaxBurstLength", "16777216", "MaxBurstLength=Reject "),
        ("MaxBurstLength", "lots", "MaxBurstLength=Reject "),
        ("FirstBurstLength", "262144", "FirstBurstLength=262144 "),
        ("FirstBurstLength", "16777215", "FirstBurstLength=262144 "),
        ("DefaultTime2Wait", "0", "DefaultTime2Wait=2 "),
        ("DefaultTime2Wait", "3600", "DefaultTime2Wait=3600 "),
        ("DefaultTime2Wait", "3601", "DefaultTime2Wait=Reject "),
        ("DefaultTime2Retain", "20", "DefaultTime2Retain=0 "),
        ("MaxOutstandingR2T", "65535", "MaxOutstandingR2T=8 "),
        ("MaxOutstandingR2T", "1", "MaxOutstandingR2T=1 "),
        ("DataPDUInOrder", "No", "DataPDUInOrder=Yes "),
        ("DataSequenceInOrder", "No", "DataSequenceInOrder=Yes "),
        ("ErrorRecoveryLevel", "2", "ErrorRecoveryLevel=0 "),
        ("ErrorRecoveryLevel", "3", "ErrorRecoveryLevel=Reject "),
        ("TaskReporting", "FastAbort,RFC3720", "TaskReporting=RFC3720 "),
        ("TaskReporting", "FastAbort", "TaskReporting=Reject "),
        ("iSCSIProtocolLevel", "2", "iSCSIProtocolLevel=2 "),
        ("iSCSIProtocolLevel", "31", "iSCSIProtocolLevel=2 "),
        ("iSCSIProtocolLevel", "1", "iSCSIProtocolLevel=1 "),
        ("iSCSIProtocolLevel", "0", "iSCSIProtocolLevel=0 "),
        ("IFMarker", "Yes", "IFMarker=No "),
        ("OFMarker", "No", "OFMarker=No "),
        ("IFMarkInt", "2048~8192", "IFMarkInt=Reject "),
        ("OFMarkInt", "2048", "OFMarkInt=Reject "),
        ("MaxRecvDataSegmentLength", "65536", ""),
        ("InitiatorAlias", "host", ""),
        ("TargetAlias", "disk", "TargetAlias=Reject "),
        ("TargetPortalGroupTag", "1", "TargetPortalGroupTag=Reject "),
        ("SendTargets", "All", "SendTargets=Reject "),
        ("AuthMethod", "None", "AuthMethod=Reject "),
        ("X-com.example.key", "1", "X-com.example.key=NotUnderstood "),
        ("maxburstlength", "512", "maxburstlength=NotUnderstood "),
        ("MaxBurstLength", "NotUnderstood", ""),
        ("TargetAlias", "Irrelevant", ""),
    ] {
        assert_eq!(answers(&[(key, value)]).0, answer, "{key}={value}");
    }
}

#[test]
fn a_first_burst_is_never_longer_than_a_burst_in_whichever_order_they_come() {
    let burst = ("MaxBurstLength", "16384");
    let first = ("FirstBurstLength", "65536");
    assert_eq!(answers(&[burst, first]).0, "MaxBurstLength=16384 FirstBurstLength=16384 ");
    assert_eq!(answers(&[first, burst]).0, "FirstBurstLength=16384 MaxBurstLength=16384 ");
    assert_eq!(answers(&[burst]).1.first_burst_length(), 16_384, "the default of the other is bounded too");
    let defaults = Parameters::default();
    assert_eq!((defaults.max_burst_length(), defaults.first_burst_length()), (262_144, 65_536));
}

#[test]
fn defaults_hold_for_what_nobody_speaks_of() {
    let defaults = answers(&[]).1;
    assert!(!defaults.header_digest() && !defaults.data_digest());
    assert!(defaults.initial_r2t() && defaults.immediate_data());
    assert_eq!(defaults.max_recv_data_segment_length(), 8192);
    assert_eq!((defaults.max_outstanding_r2t(), defaults.max_connections()), (1, 1));
    assert_eq!((defaults.default_time2wait(), defaults.default_time2retain()), (2, 20));
    assert_eq!((defaults.error_recovery_level(), defaults.protocol_level()), (0, 1));
}

#[test]
fn a_key_that_is_refused_leaves_its_default() {
    assert_eq!(answers(&[("MaxBurstLength", "1")]).1.max_burst_length(), 262_144);
    assert!(!answers(&[("HeaderDigest", "foo")]).1.header_digest());
}

#[test]
fn values_longer_than_allowed_are_rejected_and_keys_without_room_too() {
    let long = "1".repeat(256);
    assert_eq!(answers(&[("MaxBurstLength", &long)]).0, "MaxBurstLength=Reject ");
    let mut negotiation = Negotiation::new(&Limits::default());
    let mut out = [0; 10];
    let refused = negotiation.offer(Stage::Operational, "MaxBurstLength", "512", &mut Writer::new(&mut out));
    assert_eq!(refused, Err(Refusal::Full));
}

/// Whatever is offered: what comes out is what was answered, within the range of the key, and if the initiator offers just
/// that the answer is the same again.
#[test]
fn an_answer_offered_back_is_answered_by_itself() {
    let mut seed = 3_u64;
    let mut random = |bound: u32| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u32 % bound
    };
    for row in &KEYS {
        let range = match row.kind {
            Kind::Minimum(low, high) | Kind::Maximum(low, high) => Some((low, high)),
            Kind::Or | Kind::And | Kind::Digest => None,
            _ => continue,
        };
        for _ in 0..300 {
            let offer = match (range, row.kind) {
                (Some((low, high)), _) => (low + random(high - low + 1)).to_string(),
                (None, Kind::Digest) => {
                    ["CRC32C", "None", "CRC32C,None", "None,CRC32C", "x,CRC32C"][random(5) as usize].into()
                }
                _ => ["Yes", "No"][random(2) as usize].into(),
            };
            let (answer, agreed) = answers(&[(row.name, &offer)]);
            let (_, value) = answer.trim().split_once('=').expect("a pair");
            if let Some((low, high)) = range {
                let said = number(value).expect("a number");
                assert!((low..=high).contains(&said), "{answer}");
                assert_eq!(agreed.0[row.key as usize], said, "{answer}");
            }
            assert_eq!(answers(&[(row.name, value)]), (answer.clone(), agreed), "{offer}");
        }
    }
}

/// Section 13, and section 6.2 of RFC 7144: a change here is a change of the protocol.
#[test]
fn the_table_has_every_key_with_its_kind_its_stage_its_default_and_whether_discovery_has_it() {
    let snapshot = "\
        HeaderDigest Digest Operational 0
        DataDigest Digest Operational 0
        MaxConnections Minimum(1, 65535) Operational 1 irrelevant
        SendTargets Question FullFeature 0
        TargetName Declared First 0
        InitiatorName Declared First 0
        TargetAlias FromTarget Any 0
        InitiatorAlias Declared Any 0
        TargetAddress FromTarget Any 0
        TargetPortalGroupTag FromTarget Login 0
        InitialR2T Or Operational 1 irrelevant
        ImmediateData And Operational 1 irrelevant
        MaxRecvDataSegmentLength DeclaredNumber(512, 16777215) Any 8192
        MaxBurstLength Minimum(512, 16777215) Operational 262144 irrelevant
        FirstBurstLength Minimum(512, 16777215) Operational 65536 irrelevant
        DefaultTime2Wait Maximum(0, 3600) Operational 2
        DefaultTime2Retain Minimum(0, 3600) Operational 20
        MaxOutstandingR2T Minimum(1, 65535) Operational 1 irrelevant
        DataPDUInOrder Or Operational 1 irrelevant
        DataSequenceInOrder Or Operational 1 irrelevant
        ErrorRecoveryLevel Minimum(0, 2) Operational 0
        SessionType Declared First 0
        TaskReporting Reporting Operational 0 irrelevant
        iSCSIProtocolLevel Minimum(0, 31) Operational 1 irrelevant
        AuthMethod Authentication Security 0
        IFMarker No Operational 0 irrelevant
        OFMarker No Operational 0 irrelevant
        IFMarkInt Refused Operational 0 irrelevant
        OFMarkInt Refused Operational 0 irrelevant
        X#NodeArchitecture Declared Any 0";
    let drawn: Vec<String> = KEYS
        .iter()
        .map(|row| {
            let discovery = if row.irrelevant_in_discovery { " irrelevant" } else { "" };
            format!("{} {:?} {:?} {}{discovery}", row.name, row.kind, row.phase, row.default)
        })
        .collect();
    let expected: Vec<&str> = snapshot.lines().map(str::trim).collect();
    assert_eq!(drawn, expected);
}

/// What a key is answered by stage and type of session: `-` for nothing, a value, or how it is refused.
#[test]
fn every_key_has_its_stages_its_sessions_and_one_chance() {
    for row in &KEYS {
        let value: String = match row.kind {
            Kind::Declared if row.key == Key::SessionType => "Discovery".into(),
            Kind::Declared | Kind::Question | Kind::FromTarget => "iqn.2001-04.com.example:x".into(),
            Kind::DeclaredNumber(low, _) | Kind::Minimum(low, _) | Kind::Maximum(low, _) => low.to_string(),
            Kind::Digest | Kind::Authentication => "None".into(),
            Kind::Reporting => "RFC3720".into(),
            Kind::Or | Kind::And | Kind::No => "No".into(),
            Kind::Refused => "2048".into(),
        };
        for discovery in [false, true] {
            for stage in [Stage::Security, Stage::Operational, Stage::FullFeature] {
                let mut negotiation = Negotiation::new(&Limits::default());
                negotiation.discovery = discovery;
                let mut out = [0; 256];
                let mut writer = Writer::new(&mut out);
                let offered = negotiation.offer(stage, row.name, &value, &mut writer);
                let length = writer.length();
                let said = core::str::from_utf8(&out[..length]).unwrap().trim_end_matches('\0');
                let answer = said.strip_prefix(row.name).and_then(|rest| rest.strip_prefix('='));
                let place = format!("{} {stage:?} {discovery}: {said}", row.name);
                assert_eq!(offered, Ok(()), "{place}");
                let is_declared =
                    matches!(row.kind, Kind::Declared | Kind::Question | Kind::DeclaredNumber(..));
                let expected = match () {
                    () if !row.phase.allows(stage) => Some("Reject"),
                    () if discovery && row.irrelevant_in_discovery => Some("Irrelevant"),
                    () if is_declared => None,
                    () if matches!(row.kind, Kind::FromTarget | Kind::Refused) => Some("Reject"),
                    () => {
                        assert!(!matches!(answer, None | Some("Reject" | "Irrelevant")), "{place}");
                        answer
                    }
                };
                assert_eq!(answer, expected, "{place}");
                // Nothing is negotiated twice (6.2), whatever came of it.
                let again = negotiation.offer(stage, row.name, &value, &mut Writer::new(&mut [0; 256]));
                assert_eq!(again, Err(INITIATOR_ERROR), "{place}");
            }
        }
    }
}

#[test]
fn an_initiator_says_who_it_is_and_what_for_in_its_first_request() {
    for (key, value) in [
        ("InitiatorName", "iqn.2001-04.com.example:other"),
        ("TargetName", "iqn.2001-04.com.example:other"),
        ("SessionType", "Discovery"),
    ] {
        let mut negotiation = Negotiation::new(&Limits::default());
        negotiation.named = true;
        for stage in [Stage::Security, Stage::Operational] {
            let mut later = negotiation;
            let offered = later.offer(stage, key, value, &mut Writer::new(&mut [0; 64]));
            assert_eq!(offered, Err(INITIATOR_ERROR), "{key}");
        }
        let mut out = [0; 64];
        let mut writer = Writer::new(&mut out);
        assert_eq!(negotiation.offer(Stage::FullFeature, key, value, &mut writer), Ok(()));
        let length = writer.length();
        assert_eq!(out[..length], *format!("{key}=Reject\0").as_bytes());
    }
}
