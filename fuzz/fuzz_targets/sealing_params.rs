//! What clients and keyholders trust is refused, or has one form.
#![no_main]

use bonafide_sealing::ceremony::Plan;
use bonafide_sealing::deny::DenyList;
use bonafide_sealing::document::{Document, Signed};
use bonafide_sealing::epoch::EpochRecord;
use bonafide_sealing::owner::{Delegation, Root};
use bonafide_sealing::params::SealParams;
use bonafide_sealing::roster::Roster;
use libfuzzer_sys::fuzz_target;

fn one_form<T: Document>(data: &[u8]) {
    if let Ok(document) = T::decode(data) {
        assert_eq!(document.encode(), data);
    }
    if let Ok(signed) = Signed::<T>::decode(data) {
        assert_eq!(signed.encode(), data);
        assert_eq!(signed.count([]), 0);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    match which % 7 {
        0 => one_form::<SealParams>(data),
        1 => one_form::<Root>(data),
        2 => one_form::<Delegation>(data),
        3 => one_form::<Roster>(data),
        4 => one_form::<EpochRecord>(data),
        5 => one_form::<DenyList>(data),
        _ => one_form::<Plan>(data),
    }
});
