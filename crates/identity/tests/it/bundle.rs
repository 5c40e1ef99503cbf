//! Bundles: both directions, and what makes one malformed.

use base64ct::{Base64, Encoding};
use bonafide_crypto::key::KeyAlgorithm;
use bonafide_identity::bundle::TaintedKey;
use bonafide_identity::{BundleMap, Certificate, TrustBundle, TrustDomain};
use serde_json::{Value, json};

use crate::forge::{Forge, key};

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn root(algorithm: KeyAlgorithm) -> Certificate {
    let key = key(algorithm);
    let forge = Forge::authority("r", "r", "spiffe://example.org", key.public_key(), key.public_key());
    Certificate::from_der(&forge.sign(&key)).unwrap()
}

fn full() -> TrustBundle {
    let mut bundle = TrustBundle::new(td()).with_sequence(u64::MAX).with_refresh_hint(300);
    for algorithm in
        [KeyAlgorithm::EcP256, KeyAlgorithm::EcP384, KeyAlgorithm::Ed25519, KeyAlgorithm::Rsa2048]
    {
        bundle = bundle.with_x509_authority(root(algorithm));
    }
    for (kid, algorithm) in
        [("a", KeyAlgorithm::EcP256), ("b", KeyAlgorithm::EcP521), ("c", KeyAlgorithm::Rsa2048)]
    {
        bundle = bundle.with_jwt_authority(kid, key(algorithm).public_key().clone());
    }
    bundle
        .with_tainted(TaintedKey { key_id: [7; 20].into(), is_jwt: false, renew_within: 60 })
        .with_tainted(TaintedKey { key_id: b"a"[..].into(), is_jwt: true, renew_within: 0 })
}

fn parse(json: &Value) -> Result<TrustBundle, &'static str> {
    parse_text(&json.to_string())
}

fn parse_text(json: &str) -> Result<TrustBundle, &'static str> {
    TrustBundle::parse(&td(), json.as_bytes()).map_err(|error| error.code())
}

#[test]
fn round_trips() {
    let bundle = full();
    assert_eq!(TrustBundle::parse(&td(), &bundle.to_json()).unwrap(), bundle);
    let jwt = TrustBundle::parse(&td(), &bundle.to_jwt_json()).unwrap();
    assert_eq!((jwt.jwt_authorities(), jwt.x509_authorities()), (bundle.jwt_authorities(), &[][..]));
    let map: BundleMap =
        [bundle, TrustBundle::new(TrustDomain::parse("example.com").unwrap())].into_iter().collect();
    assert_eq!(BundleMap::parse(&map.to_json()).unwrap(), map);
}

#[test]
fn a_standard_jwk_set_of_the_workload_api() {
    let bundle = full();
    let of_use = |value: Option<&str>| {
        let mut set: Value = serde_json::from_slice(&bundle.to_jwt_json()).unwrap();
        for key in set["keys"].as_array_mut().unwrap() {
            key.as_object_mut().unwrap().remove("use");
            if let Some(value) = value {
                key["use"] = value.into();
            }
        }
        TrustBundle::parse_jwt_set(&td(), set.to_string().as_bytes()).unwrap()
    };
    // SPIRE's agent names no use.
    for value in [None, Some("sig"), Some("jwt-svid")] {
        assert_eq!(of_use(value).jwt_authorities(), bundle.jwt_authorities(), "{value:?}");
    }
    for value in ["x509-svid", "wit-svid", "enc"] {
        assert!(of_use(Some(value)).jwt_authorities().is_empty(), "{value}");
    }
    let mixed = TrustBundle::parse_jwt_set(&td(), &bundle.to_json()).unwrap();
    assert_eq!((mixed.jwt_authorities(), mixed.x509_authorities()), (bundle.jwt_authorities(), &[][..]));
    for bad in ["[]", "{}", r#"{"keys":[1]}"#, r#"{"keys":[{"kty":"EC"}]}"#] {
        assert!(TrustBundle::parse_jwt_set(&td(), bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn what_is_written() {
    let json: Value = serde_json::from_slice(&full().to_json()).unwrap();
    let keys = json["keys"].as_array().unwrap();
    for key in keys {
        let x509 = key["use"] == "x509-svid";
        assert!(x509 || key["use"] == "jwt-svid");
        // X509-SVID section 6.1 and JWT-SVID section 4.1.
        assert_eq!(key.get("kid").is_some(), !x509);
        assert_eq!(key.get("x5c").map(|chain| chain.as_array().unwrap().len()), x509.then_some(1));
        assert!(["EC", "RSA", "OKP"].contains(&key["kty"].as_str().unwrap()));
        assert!(key.get("d").is_none());
    }
    assert_eq!(json["spiffe_sequence"], u64::MAX);
    assert_eq!(json["spiffe_refresh_hint"], 300);
    let jwt: Value = serde_json::from_slice(&full().to_jwt_json()).unwrap();
    assert_eq!(jwt["keys"].as_array().unwrap().len(), 3);
    assert!(jwt.get("spiffe_sequence").is_none());
    let empty: Value = serde_json::from_slice(&TrustBundle::new(td()).to_json()).unwrap();
    assert_eq!(empty, json!({ "keys": [] }));
}

#[test]
fn what_is_ignored() {
    let json: Value = serde_json::from_slice(&full().to_json()).unwrap();
    let (x509, jwt) = (json["keys"][0].clone(), json["keys"][4].clone());
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let without = |mut key: Value, name: &str| {
        key.as_object_mut().unwrap().remove(name);
        key
    };
    let ignored = [
        json!({ "kty": "EC", "use": "wit-svid", "kid": "w" }),
        json!({ "kty": "EC", "use": "sig" }),
        json!({ "kty": "EC" }),
        json!({ "kty": "future", "use": "jwt-svid", "kid": "f" }),
        json!({ "kty": "future", "use": "x509-svid", "x5c": ["!"] }),
        json!({ "kty": "EC", "crv": "P-999", "use": "jwt-svid", "kid": "g" }),
        without(jwt.clone(), "use"),
        without(x509.clone(), "x5c"),
        with(x509.clone(), "x5c", json!([])),
    ];
    for key in ignored {
        let bundle = parse(&json!({ "keys": [key] })).unwrap_or_else(|code| panic!("{code}: {key}"));
        assert_eq!(bundle, TrustBundle::new(td()), "{key}");
    }
    // The certificate counts, whatever stands beside it; of several, the first.
    let second = json!([x509["x5c"][0], "not base64"]);
    for key in [
        json!({ "kty": "EC", "use": "x509-svid", "x5c": x509["x5c"] }),
        with(x509.clone(), "kid", "superfluous".into()),
        with(x509.clone(), "x5c", second),
        with(x509.clone(), "future", json!({ "a": [1, 2] })),
    ] {
        assert_eq!(parse(&json!({ "keys": [key] })).unwrap().x509_authorities().len(), 1, "{key}");
    }
    let twice = parse(&json!({ "keys": [x509, x509], "future": true })).unwrap();
    assert_eq!(twice.x509_authorities().len(), 1);
}

#[test]
fn what_is_refused() {
    let json: Value = serde_json::from_slice(&full().to_json()).unwrap();
    let (x509, jwt) = (json["keys"][0].clone(), json["keys"][4].clone());
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        json!({ "keys": [key] })
    };
    let without = |mut key: Value, name: &str| {
        key.as_object_mut().unwrap().remove(name);
        json!({ "keys": [key] })
    };
    let mut flipped = Base64::decode_vec(x509["x5c"][0].as_str().unwrap()).unwrap();
    flipped.push(0);
    let cases = [
        ("no keys", "bundle.keys", json!({})),
        ("keys not a list", "bundle.keys", json!({ "keys": {} })),
        ("a key not an object", "bundle.keys", json!({ "keys": [1] })),
        ("513 keys", "bundle.too-many-keys", json!({ "keys": vec![json!({ "kty": "x" }); 513] })),
        ("a sequence as text", "bundle.member", json!({ "keys": [], "spiffe_sequence": "1" })),
        ("a negative sequence", "bundle.member", json!({ "keys": [], "spiffe_sequence": -1 })),
        ("a sequence with a fraction", "bundle.member", json!({ "keys": [], "spiffe_sequence": 1.5 })),
        ("a sequence of null", "bundle.member", json!({ "keys": [], "spiffe_sequence": null })),
        ("a refresh hint as text", "bundle.member", json!({ "keys": [], "spiffe_refresh_hint": "300" })),
        ("a use that is no text", "bundle.member", with(jwt.clone(), "use", 1.into())),
        ("an X.509 key without kty", "bundle.member", without(x509.clone(), "kty")),
        ("x5c as text", "bundle.member", with(x509.clone(), "x5c", x509["x5c"][0].clone())),
        ("x5c of numbers", "bundle.member", with(x509.clone(), "x5c", json!([1]))),
        ("x5c not base64", "bundle.encoding", with(x509.clone(), "x5c", json!(["****"]))),
        ("x5c in base64url", "bundle.encoding", with(x509.clone(), "x5c", json!(["-_-_"]))),
        ("x5c without padding", "bundle.encoding", with(x509.clone(), "x5c", json!(["AAA"]))),
        ("x5c of 40 KB", "bundle.encoding", with(x509.clone(), "x5c", json!(["A".repeat(40_000)]))),
        ("x5c not DER", "certificate.malformed", with(x509.clone(), "x5c", json!(["AAAA"]))),
        (
            "x5c of two certificates in one",
            "certificate.trailing-bytes",
            with(x509.clone(), "x5c", json!([Base64::encode_string(&flipped)])),
        ),
        ("a JWT key without kid", "bundle.key-id", without(jwt.clone(), "kid")),
        ("a JWT key with an empty kid", "bundle.key", with(jwt.clone(), "kid", "".into())),
        ("a JWT key without kty", "bundle.key", without(jwt.clone(), "kty")),
        ("a JWT key off the curve", "bundle.key", with(jwt.clone(), "x", jwt["y"].clone())),
        ("a JWT key without y", "bundle.key", without(jwt.clone(), "y")),
        ("a private JWT key", "bundle.key", with(jwt.clone(), "d", jwt["x"].clone())),
        ("a JWT key with another key's algorithm", "bundle.key", with(jwt.clone(), "alg", "ES384".into())),
        ("a JWT key with HMAC", "bundle.key", with(jwt.clone(), "alg", "HS256".into())),
        ("one kid twice", "bundle.duplicate-key-id", json!({ "keys": [jwt, jwt] })),
    ];
    for (what, code, json) in cases {
        assert_eq!(parse(&json), Err(code), "{what}");
    }
    let texts = [
        ("nothing", "bundle.json", "".to_owned()),
        ("a list", "bundle.json", "[]".to_owned()),
        ("bytes behind", "bundle.json", r#"{"keys":[]}x"#.to_owned()),
        ("keys twice", "bundle.json", r#"{"keys":[],"keys":[]}"#.to_owned()),
        (
            "a sequence twice",
            "bundle.json",
            r#"{"keys":[],"spiffe_sequence":1,"spiffe_sequence":2}"#.to_owned(),
        ),
        ("a member of a key twice", "bundle.json", r#"{"keys":[{"kty":"x","kty":"x"}]}"#.to_owned()),
        (
            "a giant sequence",
            "bundle.member",
            r#"{"keys":[],"spiffe_sequence":18446744073709551616}"#.to_owned(),
        ),
        ("deep nesting", "bundle.json", format!(r#"{{"keys":[],"x":{}}}"#, "[".repeat(100_000))),
        ("2 MiB", "bundle.too-long", " ".repeat(2 << 20)),
    ];
    for (what, code, text) in texts {
        assert_eq!(parse_text(&text), Err(code), "{what}");
    }
}

#[test]
fn a_malformed_element_is_left_out_and_reported_and_takes_nobody_along() {
    let full = full();
    let json: Value = serde_json::from_slice(&full.to_json()).unwrap();
    let good = json["keys"].as_array().unwrap().clone();
    let (x509, jwt) = (good[0].clone(), good[4].clone());
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let bad = [
        ("bundle.member", with(x509.clone(), "x5c", json!([1]))),
        ("bundle.encoding", with(x509.clone(), "x5c", json!(["****"]))),
        ("certificate.malformed", with(x509.clone(), "x5c", json!(["AAAA"]))),
        ("bundle.member", with(x509.clone(), "use", 1.into())),
        ("bundle.key", with(jwt.clone(), "d", jwt["x"].clone())),
        ("bundle.key", with(jwt.clone(), "kid", "".into())),
    ];
    for (code, bad) in bad {
        for place in [0, good.len()] {
            let mut keys = good.clone();
            keys.insert(place, bad.clone());
            let bundle = parse(&json!({ "keys": keys })).unwrap_or_else(|code| panic!("{code}: {bad}"));
            assert_eq!(bundle.x509_authorities(), full.x509_authorities(), "{bad}");
            assert_eq!(bundle.jwt_authorities(), full.jwt_authorities(), "{bad}");
            let codes: Vec<_> = bundle.skipped().iter().map(|error| error.code()).collect();
            assert_eq!(codes, [code], "{bad}");
        }
    }
    // A bundle that had roots and has none left would cut the whole trust domain off.
    let broken = with(x509, "x5c", json!(["AAAA"]));
    assert_eq!(parse(&json!({ "keys": [broken, jwt] })), Err("certificate.malformed"));
    assert!(full.skipped().is_empty());
}

#[test]
fn authorities_one_behind_the_other() {
    let roots: Vec<Vec<u8>> = full().x509_authorities().iter().map(|root| root.der().to_vec()).collect();
    let read =
        |der: &[u8]| Certificate::authorities_from_der(der, 16).map(|(good, bad)| (good.len(), bad.len()));
    let bad = [0x30, 3, 2, 1, 0];
    assert_eq!(read(&roots.concat()), Ok((roots.len(), 0)));
    assert_eq!(read(&[&bad[..], &roots.concat(), &bad].concat()), Ok((roots.len(), 2)));
    assert_eq!(read(&[]), Ok((0, 0)));
    assert!(read(&bad).is_err(), "none is left");
    assert!(
        read(&[&roots.concat(), &[0x30, 9, 1][..]].concat()).is_err(),
        "nobody knows where the next one begins"
    );
    assert!(Certificate::authorities_from_der(&bad.repeat(17), 16).is_err());
}

#[test]
fn maps() {
    let parse =
        |text: &str| BundleMap::parse(text.as_bytes()).map(|map| map.len()).map_err(|error| error.code());
    assert_eq!(parse(r#"{"trust_domains":{"a":{"keys":[]},"b":{"keys":[]}}}"#), Ok(2));
    assert_eq!(parse(r#"{"trust_domains":{}}"#), Ok(0));
    let bad = [
        (r#"{}"#, "bundle.map"),
        (r#"{"trust_domains":[]}"#, "bundle.map"),
        (r#"{"trust_domains":{"a":1}}"#, "bundle.map"),
        (r#"{"trust_domains":{"a":{}}}"#, "bundle.keys"),
        (r#"{"trust_domains":{"a":{"keys":[]},"a":{"keys":[]}}}"#, "bundle.json"),
        (r#"{"trust_domains":{"a":{"keys":[]},"A":{"keys":[]}}}"#, "bundle.duplicate-trust-domain"),
        (r#"{"trust_domains":{"spiffe://a":{"keys":[]}}}"#, "bundle.trust-domain"),
        (r#"{"trust_domains":{"a/b":{"keys":[]}}}"#, "bundle.trust-domain"),
        (r#"{"trust_domains":{},"trust_domains":{}}"#, "bundle.json"),
    ];
    for (text, code) in bad {
        assert_eq!(parse(text), Err(code), "{text}");
    }
}
