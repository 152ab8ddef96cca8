//! Vectors of the algorithm's authors, and everything else against another implementation.

use super::{Forged, Gcm, LONGEST, available};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};

/// Bytes of which no two stretches are alike.
fn bytes(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn others(key: &[u8], nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> [u8; 16] {
    let nonce = (*nonce).into();
    let tag = if key.len() == 16 {
        let key = Aes128Gcm::new_from_slice(key).expect("the length of a key");
        key.encrypt_inout_detached(&nonce, aad, data.into())
    } else {
        let key = Aes256Gcm::new_from_slice(key).expect("the length of a key");
        key.encrypt_inout_detached(&nonce, aad, data.into())
    };
    tag.expect("short enough").into()
}

/// Says so when there is nothing to test.
fn there() -> bool {
    if !available() {
        eprintln!("skipped: this processor has no AES-NI and PCLMULQDQ");
    }
    available()
}

#[test]
fn the_vectors_of_mcgrew_and_viega_come_out() {
    if !there() {
        return;
    }
    // "The Galois/Counter Mode of Operation", appendix B: test cases 1, 2, 4, 14 and 16.
    let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                 b16aedf5aa0de657ba637b39";
    let aad = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    let key = "feffe9928665731c6d6a8f9467308308";
    let cases = [
        [
            "00000000000000000000000000000000",
            "000000000000000000000000",
            "",
            "",
            "58e2fccefa7e3061367f1d57a4e7455a",
        ],
        [
            "00000000000000000000000000000000",
            "000000000000000000000000",
            "",
            "00000000000000000000000000000000",
            "ab6e47d42cec13bdf53a67b21257bddf",
        ],
        [key, "cafebabefacedbaddecaf888", aad, plain, "5bc94fbc3221a5db94fae95ae7121a47"],
        [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "000000000000000000000000",
            "",
            "00000000000000000000000000000000",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ],
        [
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            aad,
            plain,
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ],
    ];
    for [key, nonce, aad, plain, tag] in cases {
        let gcm = Gcm::new(&hex(key)).unwrap();
        let mut data = hex(plain);
        let nonce = hex(nonce).try_into().unwrap();
        assert_eq!(gcm.seal(&nonce, &hex(aad), &mut data).to_vec(), hex(tag), "{key} {plain}");
        gcm.open(&nonce, &hex(aad), &mut data, &hex(tag).try_into().unwrap()).unwrap();
        assert_eq!(data, hex(plain));
    }
}

#[test]
fn every_length_gives_what_another_implementation_gives() {
    if !there() {
        return;
    }
    for key_length in [16, 32] {
        for length in (0..700).chain([4096, 16_384, 16_385, 16_640]) {
            let key = bytes(key_length, length as u64 + 1);
            let nonce: [u8; 12] = bytes(12, length as u64 + 77).try_into().unwrap();
            let aad = bytes(length % 47, 5);
            let plain = bytes(length, 9);
            let (mut ours, mut theirs) = (plain.clone(), plain.clone());
            let gcm = Gcm::new(&key).unwrap();
            let tag = gcm.seal(&nonce, &aad, &mut ours);
            assert_eq!(tag, others(&key, &nonce, &aad, &mut theirs), "{length}");
            assert!(ours == theirs, "{length}");
            gcm.open(&nonce, &aad, &mut ours, &tag).unwrap();
            assert!(ours == plain, "{length}");
        }
    }
}

#[test]
fn a_single_changed_bit_is_a_forgery_and_leaves_nothing_to_read() {
    if !there() {
        return;
    }
    let gcm = Gcm::new(&[7; 16]).unwrap();
    let mut sealed = bytes(150, 3);
    let tag = gcm.seal(&[1; 12], b"header", &mut sealed);
    for bit in 0..150 * 8 {
        let mut data = sealed.clone();
        data[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(gcm.open(&[1; 12], b"header", &mut data, &tag), Err(Forged));
        assert_eq!(data, vec![0; 150]);
    }
    for bit in 0..128 {
        let mut wrong = tag;
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(gcm.open(&[1; 12], b"header", &mut sealed.clone(), &wrong), Err(Forged));
    }
    assert_eq!(gcm.open(&[1; 12], b"heather", &mut sealed.clone(), &tag), Err(Forged));
    assert_eq!(gcm.open(&[2; 12], b"header", &mut sealed.clone(), &tag), Err(Forged));
    assert_eq!(gcm.open(&[1; 12], b"header", &mut sealed, &tag), Ok(()));
}

#[test]
fn keys_of_other_lengths_are_refused() {
    for length in [0, 15, 17, 24, 31, 33] {
        assert!(Gcm::new(&vec![0; length]).is_none());
    }
    const { assert!(LONGEST / 16 < u32::MAX as usize - 2, "the counter must not come round") };
}
