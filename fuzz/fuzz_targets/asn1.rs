//! What the strict reader takes, the writer writes again byte for byte.
#![no_main]

use bonafide_crypto::asn1::{Reader, Writer};
use libfuzzer_sys::fuzz_target;

fn copy(reader: Reader<'_>, writer: &mut Writer, depth: usize) {
    let mut reader = reader;
    while let Some(element) = reader.any() {
        let constructed = element.tag & 0x20 != 0;
        let mut inner = Reader::new(element.content);
        let whole = std::iter::from_fn(|| inner.any()).map(|child| child.encoded.len()).sum::<usize>();
        if constructed && depth > 0 && whole == element.content.len() {
            writer.nested(element.tag, |writer| copy(Reader::new(element.content), writer, depth - 1));
        } else {
            writer.primitive(element.tag, element.content);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut writer = Writer::default();
    copy(Reader::new(data), &mut writer, 16);
    let out = writer.finish();
    assert!(data.starts_with(&out));
});
