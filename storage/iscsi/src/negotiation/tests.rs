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
