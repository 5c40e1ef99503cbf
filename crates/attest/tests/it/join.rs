//! Join lines: one word, whole or refused, and never printed by accident.

use bonafide_attest::join::{JoinError, JoinLine, Token, check_address};
use bonafide_crypto::random::SystemRandom;
use proptest::prelude::*;

fn line() -> JoinLine {
    JoinLine {
        address: "authority.example.org:8443".into(),
        trust_domain: "example.org".parse().unwrap(),
        root_pin: [7; 32],
        token: Token::generate(&SystemRandom),
    }
}

#[test]
fn a_word_says_it_all() {
    let line = line();
    let word = line.to_word();
    assert!(word.starts_with("bfj1."));
    assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')));
    assert_eq!(word.parse::<JoinLine>().unwrap(), line);
    assert_eq!(format!("  {}\n", *word).parse::<JoinLine>().unwrap(), line);
}

#[test]
fn debug_hides_the_token() {
    let line = line();
    let shown = format!("{line:?}");
    assert!(shown.contains("[token]") && !shown.contains(line.token.to_text().as_str()));
}

#[test]
fn every_damage_is_seen() {
    let word = line().to_word().to_string();
    for cut in 0..word.len() {
        assert!(word.get(..cut).unwrap().parse::<JoinLine>().is_err(), "{cut}");
    }
    for at in 5..word.len() {
        let mut bytes = word.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(bytes).unwrap();
        assert!(damaged.parse::<JoinLine>().is_err(), "{at}");
    }
    assert_eq!("bfj2.AAAA".parse::<JoinLine>(), Err(JoinError::NotAJoinLine));
    assert_eq!(format!("bfj1.{}", "A".repeat(2000)).parse::<JoinLine>(), Err(JoinError::Damaged));
}

#[test]
fn a_token_goes_through_text() {
    let token = Token::generate(&SystemRandom);
    assert_eq!(token.to_text().parse::<Token>().unwrap(), token);
    assert_eq!(Token::from_bytes(token.expose()), Some(token.clone()));
    assert_eq!(Token::from_bytes(&token.expose()[..31]), None);
    assert!("short".parse::<Token>().is_err());
    assert!(format!("{}AA", *token.to_text()).parse::<Token>().is_err());
}

#[test]
fn addresses_have_host_and_port() {
    for address in ["a:1", "[::1]:8443", "authority.example.org:65535"] {
        assert_eq!(check_address(address), Ok(()), "{address}");
    }
    for address in ["a", "a:", "a:0", ":1", "a:65536", "a b:1", "a\n:1", "a:1x"] {
        assert_eq!(check_address(address), Err(JoinError::Address), "{address}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(bfj1\\.)?[A-Za-z0-9_-]{0,200}") {
        let _ = text.parse::<JoinLine>();
    }
}
