//! Our reader against another one: whatever we accept, x509-cert reads in the same way.

use bonafide_identity::{Certificate, CertificateError};
use proptest::prelude::*;
use proptest::sample::Index;
use x509_cert::der::{Decode, Encode, ErrorKind};

use crate::x509::World;

fn agree(der: &[u8]) {
    let Ok(ours) = Certificate::from_der(der) else {
        return;
    };
    let theirs = match x509_cert::Certificate::from_der(der) {
        Ok(theirs) => theirs,
        // It knows no identifiers with arcs of more than 32 bits, nor those below 2 whose second arc exceeds 39.
        Err(error) if error.kind() == ErrorKind::OidMalformed => return,
        // Nor UniversalString, one of the forms of a name (RFC 5280 section 4.1.2.4).
        Err(error) if matches!(error.kind(), ErrorKind::TagUnknown { byte: 0x1c }) => return,
        // Nor moments before 1970.
        Err(_) if ours.not_before().as_secs() < 0 || ours.not_after().as_secs() < 0 => return,
        Err(error) => panic!("x509-cert refuses what we accept: {error}"),
    };
    let tbs = theirs.tbs_certificate();
    assert_eq!(
        tbs.serial_number().as_bytes().iter().skip_while(|b| **b == 0).collect::<Vec<_>>(),
        ours.serial().iter().collect::<Vec<_>>()
    );
    assert_eq!(tbs.issuer().to_der().unwrap(), ours.issuer_der());
    assert_eq!(tbs.subject().to_der().unwrap(), ours.subject_der());
    assert_eq!(tbs.subject_public_key_info().to_der().unwrap(), ours.public_key().spki_der());
    let seconds = |time: &x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap();
    assert_eq!(seconds(&tbs.validity().not_before), ours.not_before().as_secs());
    assert_eq!(seconds(&tbs.validity().not_after), ours.not_after().as_secs());
}

#[test]
fn concatenated_certificates() {
    let chain = World::new().chain();
    let der = chain.concat();
    let read = Certificate::many_from_der(&der, 2).unwrap();
    assert_eq!(read.iter().map(|c| c.der().to_vec()).collect::<Vec<_>>(), chain);
    assert_eq!(Certificate::many_from_der(&der, 1).unwrap_err(), CertificateError::TooMany);
    assert!(Certificate::many_from_der(&der[..der.len() - 1], 2).is_err());
    assert_eq!(Certificate::many_from_der(&[], 2).unwrap(), []);
}

#[test]
fn every_prefix_is_refused() {
    let der = World::new().chain().remove(0);
    for end in 0..der.len() {
        assert!(Certificate::from_der(&der[..end]).is_err(), "{end}");
    }
    agree(&der);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn two_readers_agree(ca: bool, changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3)) {
        let world = World::new();
        let mut der = world.chain().remove(usize::from(ca));
        for (at, byte) in changes {
            let at = at.index(der.len());
            der[at] = byte;
        }
        agree(&der);
    }

    #[test]
    fn never_panics(der in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Certificate::from_der(&der);
    }
}
