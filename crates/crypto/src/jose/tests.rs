use base64ct::{Base64UrlUnpadded, Encoding};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::key::{KeyAlgorithm, PrivateKey, PublicKey, Signer};

const PAYLOAD: &[u8] = br#"{"sub":"spiffe://example.org/a"}"#;

fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::EcP256).unwrap()
}

fn encode(part: &str) -> String {
    Base64UrlUnpadded::encode_string(part.as_bytes())
}

/// A token with this header that `key` really signed with ES256: only the header can be wrong.
fn signed(key: &PrivateKey, header: &str) -> String {
    let good = sign_compact(key, JwsAlgorithm::Es256, "k", PAYLOAD).unwrap();
    let body = format!("{}.{}", encode(header), good.split('.').nth(1).unwrap());
    let signature = JwsAlgorithm::Es256.signature_to_jose(key.sign(body.as_bytes()).unwrap()).unwrap();
    format!("{body}.{}", Base64UrlUnpadded::encode_string(&signature))
}

fn check(token: &str, key: &PublicKey) -> Result<Vec<u8>, JwsError> {
    CompactJws::parse(token, Limits::default())?.verify(key).map(<[u8]>::to_vec)
}

#[test]
fn every_algorithm_signs_and_only_with_its_key() {
    let keys = [KeyAlgorithm::EcP256, KeyAlgorithm::EcP384, KeyAlgorithm::EcP521, KeyAlgorithm::Rsa2048]
        .map(|algorithm| PrivateKey::generate(algorithm).unwrap());
    for alg in JwsAlgorithm::ALL {
        assert_eq!(JwsAlgorithm::from_name(alg.as_str()), Some(alg));
        let mut fitting = 0;
        for key in &keys {
            let Ok(token) = sign_compact(key, alg, "key/../\"1\"", PAYLOAD) else { continue };
            fitting += 1;
            let jws = CompactJws::parse(&token, Limits::default()).unwrap();
            assert_eq!(jws.header().alg, alg);
            assert_eq!(jws.header().kid.as_deref(), Some("key/../\"1\""));
            assert_eq!(jws.header().typ.as_deref(), Some("JWT"));
            for other in &keys {
                let same = other.public_key() == key.public_key();
                assert_eq!(jws.verify(other.public_key()).is_ok(), same);
            }
            assert_eq!(jws.verify(key.public_key()), Ok(PAYLOAD));
        }
        assert_eq!(fitting, 1);
    }
    let edwards = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
    assert!(JwsAlgorithm::ALL.iter().all(|alg| sign_compact(&edwards, *alg, "k", PAYLOAD).is_err()));
}

#[test]
fn a_token_is_not_shown() {
    let token = sign_compact(&key(), JwsAlgorithm::Es256, "k", PAYLOAD).unwrap();
    let shown = format!("{:?}", CompactJws::parse(&token, Limits::default()).unwrap());
    assert!(shown.contains("Es256") && token.split('.').all(|part| !shown.contains(part)), "{shown}");
    assert!(!shown.contains("signature") && !shown.contains("payload"), "{shown}");
}

/// RFC 7515 appendices A.3 and A.4.
#[test]
fn the_examples_of_the_rfc_verify() {
    for (jwk, token, payload) in [
        (
            json!({
                "kty": "EC", "crv": "P-256",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            }),
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290\
             Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}",
        ),
        (
            json!({
                "kty": "EC", "crv": "P-521",
                "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
                "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
            }),
            "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-K\
             GDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
            "Payload",
        ),
    ] {
        let jwk = Jwk::from_value(&jwk).unwrap().unwrap();
        assert_eq!(check(token, jwk.key()), Ok(payload.as_bytes().to_vec()));
        assert_eq!(check(token, key().public_key()), Err(JwsError::Signature));
    }
}

#[test]
fn forged_headers_are_refused_though_the_signature_is_right() {
    let key = key();
    assert_eq!(check(&signed(&key, r#"{"alg":"ES256","kid":"k"}"#), key.public_key()).unwrap(), PAYLOAD);
    for (header, error) in [
        (r#"{"alg":"none"}"#, JwsError::Algorithm),
        (r#"{"alg":"None"}"#, JwsError::Algorithm),
        (r#"{"alg":"HS256"}"#, JwsError::Algorithm),
        (r#"{"alg":"EdDSA"}"#, JwsError::Algorithm),
        (r#"{"alg":"es256"}"#, JwsError::Algorithm),
        (r#"{"alg":"ES256 "}"#, JwsError::Algorithm),
        (r#"{"alg":"ES384"}"#, JwsError::Signature),
        (r#"{"alg":"RS256"}"#, JwsError::Signature),
        (r#"{"alg":["ES256"]}"#, JwsError::Header),
        (r#"{"alg":null}"#, JwsError::Header),
        (r#"{"kid":"k"}"#, JwsError::Header),
        (r#"{"alg":"none","alg":"ES256"}"#, JwsError::Header),
        (r#"{"alg":"ES256","alg":"ES256"}"#, JwsError::Header),
        (r#"{"alg":"ES256","\u0061lg":"none"}"#, JwsError::Header),
        (r#"{"alg":"ES256","kid":"a","kid":"b"}"#, JwsError::Header),
        (r#"{"alg":"ES256","jwk":{"kty":"EC"}}"#, JwsError::Header),
        (r#"{"alg":"ES256","jku":"https://evil.example/keys"}"#, JwsError::Header),
        (r#"{"alg":"ES256","x5u":"https://evil.example/cert"}"#, JwsError::Header),
        (r#"{"alg":"ES256","x5c":["MII="]}"#, JwsError::Header),
        (r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, JwsError::Header),
        (r#"{"alg":"ES256","b64":false,"crit":["b64"]}"#, JwsError::Header),
        (r#"{"alg":"ES256","cty":"JWT"}"#, JwsError::Header),
        (r#"{"alg":"ES256","typ":"at+jwt"}"#, JwsError::Header),
        (r#"{"alg":"ES256","typ":"jwt"}"#, JwsError::Header),
        (r#"{"alg":"ES256","typ":null}"#, JwsError::Header),
        (r#"{"alg":"ES256","kid":7}"#, JwsError::Header),
        (r#"{"alg":"ES256","kid":""}"#, JwsError::Header),
        (r#"{"alg":"ES256","kid":"k\u0000"}"#, JwsError::Header),
        (r#"{"alg":"ES256","kid":"k\r\nx: y"}"#, JwsError::Header),
        (r#"{"alg":"ES256"} x"#, JwsError::Header),
        (r#"{"alg":"ES256"}{}"#, JwsError::Header),
        (r#"["ES256"]"#, JwsError::Header),
        ("", JwsError::Header),
    ] {
        assert_eq!(check(&signed(&key, header), key.public_key()), Err(error), "{header}");
    }
    let long = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(257));
    assert_eq!(check(&signed(&key, &long), key.public_key()), Err(JwsError::Header));
    for typ in ["JWT", "JOSE"] {
        let token = signed(&key, &json!({"alg": "ES256", "typ": typ}).to_string());
        assert!(check(&token, key.public_key()).is_ok());
    }
}

/// The classic confusion: the attacker signs with HMAC, and with the public key as the shared secret.
#[test]
fn a_public_key_is_no_shared_secret() {
    let key = key();
    for secret in [key.public_key().spki_der().to_vec(), key.public_key().spki_der()[26..].to_vec()] {
        for alg in ["HS256", "ES256", "RS256"] {
            let body = format!(
                "{}.{}",
                encode(&format!(r#"{{"alg":"{alg}"}}"#)),
                Base64UrlUnpadded::encode_string(PAYLOAD)
            );
            let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
            let tag = aws_lc_rs::hmac::sign(&hmac, body.as_bytes());
            let token = format!("{body}.{}", Base64UrlUnpadded::encode_string(tag.as_ref()));
            assert!(check(&token, key.public_key()).is_err());
        }
    }
}

#[test]
fn other_spellings_of_a_good_token_are_refused() {
    let key = key();
    let good = sign_compact(&key, JwsAlgorithm::Es256, "k", PAYLOAD).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    assert!(check(&good, key.public_key()).is_ok());
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        unsigned,
        format!("{good}."),
        format!("{good}.{}", parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}="),
        format!("{good}A"),
        format!("{good}\n"),
        format!(" {good}"),
        good.replace('.', ".."),
        good.replacen('.', "=.", 1),
        // JSON serialisation is not compact.
        json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string(),
        // DER in place of the fixed form.
        format!(
            "{}.{}.{}",
            parts[0],
            parts[1],
            Base64UrlUnpadded::encode_string(
                &key.sign(format!("{}.{}", parts[0], parts[1]).as_bytes()).unwrap()
            )
        ),
        // r = s = 0 (CVE-2022-21449).
        format!("{}.{}.{}", parts[0], parts[1], Base64UrlUnpadded::encode_string(&[0; 64])),
        "A".repeat(16 * 1024 + 1),
    ] {
        assert!(check(&bad, key.public_key()).is_err(), "{bad}");
    }
}

/// 64 bytes leave four bits of the last base64 digit unused: they must be zero.
#[test]
fn unused_bits_must_be_zero() {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let key = key();
    let good = sign_compact(&key, JwsAlgorithm::Es256, "k", PAYLOAD).unwrap();
    let last = ALPHABET.find(good.chars().last().unwrap()).unwrap();
    assert_eq!(last % 16, 0);
    let mut other = good.clone();
    other.pop();
    other.push(ALPHABET.chars().nth(last + 1).unwrap());
    assert_eq!(check(&other, key.public_key()), Err(JwsError::Encoding));
}

#[test]
fn a_jwk_survives_json() {
    for algorithm in [KeyAlgorithm::EcP256, KeyAlgorithm::EcP384, KeyAlgorithm::EcP521, KeyAlgorithm::Rsa2048]
    {
        let key = PrivateKey::generate(algorithm).unwrap();
        let jwk = Jwk::new(key.public_key().clone(), Some("k".into()), Some("jwt-svid".into())).unwrap();
        assert_eq!(Jwk::from_value(&jwk.to_value()), Ok(Some(jwk)));
    }
    let edwards = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
    assert!(Jwk::new(edwards.public_key().clone(), None, None).is_err());
}

#[test]
fn a_wrong_jwk_is_refused_or_ignored() {
    let with = |value: &Value, name: &str, member: Value| {
        let mut value = value.clone();
        value[name] = member;
        Jwk::from_value(&value)
    };
    let ec = Jwk::new(key().public_key().clone(), None, None).unwrap().to_value();
    let rsa = PrivateKey::generate(KeyAlgorithm::Rsa2048).unwrap();
    let rsa = Jwk::new(rsa.public_key().clone(), None, None).unwrap().to_value();
    for (name, kind) in [("kty", "oct"), ("kty", "OKP"), ("kty", "AKP"), ("crv", "secp256k1")] {
        assert_eq!(with(&ec, name, kind.into()), Ok(None));
    }
    assert_eq!(with(&ec, "d", "AA".into()), Err(JwkError::Private));
    assert_eq!(with(&rsa, "p", "AA".into()), Err(JwkError::Private));
    assert_eq!(with(&ec, "alg", "ES256".into()).map(|jwk| jwk.is_some()), Ok(true));
    assert_eq!(with(&ec, "alg", "HS256".into()), Err(JwkError::Algorithm));
    assert_eq!(with(&ec, "alg", "ES384".into()), Err(JwkError::Algorithm));
    assert_eq!(with(&ec, "kid", 1.into()), Err(JwkError::Member("kid")));
    assert!(with(&ec, "crv", "P-384".into()).is_err());
    let x = Base64UrlUnpadded::decode_vec(ec["x"].as_str().unwrap()).unwrap();
    for bad in [&x[..31], &[&[0], x.as_slice()].concat(), &[0; 32], &[]] {
        assert!(with(&ec, "x", Base64UrlUnpadded::encode_string(bad).into()).is_err());
    }
    assert!(with(&ec, "x", format!("{}=", ec["x"].as_str().unwrap()).into()).is_err());
    let n = Base64UrlUnpadded::decode_vec(rsa["n"].as_str().unwrap()).unwrap();
    let padded = Base64UrlUnpadded::encode_string(&[&[0], n.as_slice()].concat());
    assert_eq!(with(&rsa, "n", padded.into()), Err(JwkError::Member("n")));
    assert!(with(&rsa, "n", Base64UrlUnpadded::encode_string(&n[..128]).into()).is_err());
    assert!(with(&rsa, "e", "Aw".into()).is_err());
    assert!(Jwk::from_value(&json!([])).is_err() && Jwk::from_value(&json!({})).is_err());
}

#[test]
fn a_duplicate_member_is_refused_at_any_depth() {
    assert!(parse_object(br#"{"a":{"b":1},"c":{"b":1}}"#).is_ok());
    for bad in [
        &br#"{"a":1,"a":1}"#[..],
        br#"{"a":{"b":1,"b":2}}"#,
        br#"{"a":[{"b":1,"\u0062":2}]}"#,
        br#"[]"#,
        br#"{}{}"#,
        br#"{"a":1,}"#,
        br#"{"a":NaN}"#,
        b"\xef\xbb\xbf{}",
        b"{\"a\":\"\xff\"}",
    ] {
        assert!(parse_object(bad).is_err(), "{}", String::from_utf8_lossy(bad));
    }
    assert!(
        parse_object(&[br#"{"a":"#.repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat()).is_err()
    );
}

proptest! {
    #[test]
    fn parsers_never_panic(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = CompactJws::parse(&text, Limits::default());
        let header = format!("{}.{}.{}", encode(&text), encode(&text), encode(&text));
        let _ = CompactJws::parse(&header, Limits::default());
        let _ = parse_object(&bytes);
        for alg in JwsAlgorithm::ALL {
            let _ = alg.signature_to_jose(bytes.clone());
        }
    }

    #[test]
    fn the_fixed_form_of_a_signature_survives(bytes in prop::collection::vec(any::<u8>(), 132..=132)) {
        for (alg, length) in [(JwsAlgorithm::Es256, 64), (JwsAlgorithm::Es384, 96), (JwsAlgorithm::Es512, 132)] {
            let fixed = bytes[..length].to_vec();
            if let Some(der) = alg.signature_from_jose(&fixed) {
                prop_assert_eq!(alg.signature_to_jose(der), Some(fixed));
            }
        }
    }

    #[test]
    fn strict_json_agrees_with_serde(value in json_values()) {
        let object = json!({ "value": value });
        prop_assert_eq!(parse_object(object.to_string().as_bytes()).map(Value::Object), Ok(object));
    }

    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), to in any::<char>()) {
        let key = key();
        let good = sign_compact(&key, JwsAlgorithm::Es256, "k", PAYLOAD).unwrap();
        let at = at.index(good.len());
        let changed: String = good.chars().enumerate().map(|(i, c)| if i == at { to } else { c }).collect();
        prop_assume!(changed != good);
        prop_assert!(check(&changed, key.public_key()).is_err());
    }
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}
