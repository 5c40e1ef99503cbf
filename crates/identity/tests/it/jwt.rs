//! JWT confusion: every way to make a verifier believe what nobody signed, or what was signed for another.

use std::sync::LazyLock;

use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_crypto::jose::{self, JwsAlgorithm};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, Signer};
use bonafide_identity::jwt::{self, JwtClaims, JwtSvid};
use bonafide_identity::{BundleMap, InstanceId, SpiffeId, TrustBundle, TrustDomain, UnixTime};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::forge::{NOW, key};

const AUDIENCE: &str = "spiffe://example.org/shop";

struct Keys {
    ec: PrivateKey,
    rsa: PrivateKey,
    foreign: PrivateKey,
    unknown: PrivateKey,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    ec: key(KeyAlgorithm::EcP256),
    rsa: key(KeyAlgorithm::Rsa2048),
    foreign: key(KeyAlgorithm::EcP256),
    unknown: key(KeyAlgorithm::EcP256),
});

static BUNDLES: LazyLock<BundleMap> = LazyLock::new(|| {
    let own = TrustBundle::new(TrustDomain::parse("example.org").unwrap())
        .with_jwt_authority("ec", KEYS.ec.public_key().clone())
        .with_jwt_authority("rsa", KEYS.rsa.public_key().clone());
    let foreign = TrustBundle::new(TrustDomain::parse("example.com").unwrap())
        .with_jwt_authority("foreign", KEYS.foreign.public_key().clone());
    [own, foreign].into_iter().collect()
});

fn claims() -> Value {
    json!({ "sub": "spiffe://example.org/web", "aud": [AUDIENCE], "exp": NOW + 300, "iat": NOW - 10 })
}

fn with(name: &str, value: impl Into<Value>) -> String {
    let mut claims = claims();
    claims[name] = value.into();
    claims.to_string()
}

fn without(name: &str) -> String {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims.to_string()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

/// A token of exactly these texts, signed with the algorithm that JOSE calls by this name.
fn sign(key: &PrivateKey, algorithm: JwsAlgorithm, header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(payload));
    // Only the conversion of the signature is borrowed: a token of this key, of which the last part is taken.
    let mut fixed = key.sign_with(algorithm.signature_algorithm(), signed.as_bytes()).unwrap();
    if fixed.first() == Some(&0x30) && key.public_key() != KEYS.rsa.public_key() {
        fixed = raw_ecdsa(&fixed);
    }
    format!("{signed}.{}", encode(fixed))
}

/// The two numbers of a P-256 signature, 32 bytes each.
fn raw_ecdsa(der: &[u8]) -> Vec<u8> {
    let mut outer = bonafide_crypto::asn1::Reader::new(der);
    let mut numbers = outer.nested(0x30).unwrap();
    let mut raw = Vec::new();
    for _ in 0..2 {
        let number = numbers.positive().unwrap();
        raw.resize(raw.len() + 32 - number.len(), 0);
        raw.extend(number);
    }
    raw
}

fn ec(header: &str, payload: &str) -> String {
    sign(&KEYS.ec, JwsAlgorithm::Es256, header, payload)
}

fn payload(payload: &str) -> String {
    ec(r#"{"alg":"ES256","kid":"ec","typ":"JWT"}"#, payload)
}

fn header(header: &str) -> String {
    ec(header, &claims().to_string())
}

fn verdict(token: &str) -> &'static str {
    verdict_at(token, AUDIENCE, NOW)
}

fn verdict_at(token: &str, audience: &str, now: i64) -> &'static str {
    match jwt::verify(token, &BUNDLES, audience, UnixTime::from_secs(now)) {
        Ok(_) => "ok",
        Err(error) => {
            assert!(!error.hint().is_empty());
            error.code()
        }
    }
}

fn check(cases: &[(&str, &str, String)]) {
    for (what, expected, token) in cases {
        assert_eq!(verdict(token), *expected, "{what}");
    }
}

#[test]
fn good_tokens() {
    check(&[
        ("as usual", "ok", payload(&claims().to_string())),
        ("one audience as text", "ok", payload(&with("aud", AUDIENCE))),
        ("several audiences", "ok", payload(&with("aud", json!(["x", AUDIENCE])))),
        ("without iat", "ok", payload(&without("iat"))),
        ("iat a little in the future", "ok", payload(&with("iat", NOW + 60))),
        ("nbf now", "ok", payload(&with("nbf", NOW))),
        ("a second left", "ok", payload(&with("exp", NOW + 1))),
        ("other claims", "ok", payload(&with("groups", json!([{ "a": null }, 1.5])))),
        ("a foreign instance claim", "ok", payload(&with("bonafide_instance", 7))),
        ("without typ", "ok", header(r#"{"alg":"ES256","kid":"ec"}"#)),
        ("typ JOSE", "ok", header(r#"{"typ":"JOSE","kid":"ec","alg":"ES256"}"#)),
        ("without kid", "ok", header(r#"{"alg":"ES256"}"#)),
        (
            "a foreign trust domain's own",
            "ok",
            sign(
                &KEYS.foreign,
                JwsAlgorithm::Es256,
                r#"{"alg":"ES256","kid":"foreign"}"#,
                &with("sub", "spiffe://example.com/a"),
            ),
        ),
    ]);
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let alg = JwsAlgorithm::from_name(algorithm).unwrap();
        for kid in [r#","kid":"rsa""#, ""] {
            let header = format!(r#"{{"alg":"{algorithm}"{kid}}}"#);
            assert_eq!(verdict(&sign(&KEYS.rsa, alg, &header, &claims().to_string())), "ok", "{header}");
        }
    }
}

#[test]
fn headers() {
    let embedded = format!(
        r#"{{"alg":"ES256","kid":"ec","jwk":{}}}"#,
        jose::Jwk::new(KEYS.unknown.public_key().clone(), None, None).unwrap().to_value()
    );
    let long = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(257));
    check(&[
        ("alg none", "jwt.algorithm", header(r#"{"alg":"none","kid":"ec"}"#)),
        ("alg None", "jwt.algorithm", header(r#"{"alg":"None","kid":"ec"}"#)),
        ("alg HS256", "jwt.algorithm", header(r#"{"alg":"HS256","kid":"ec"}"#)),
        ("alg HS512", "jwt.algorithm", header(r#"{"alg":"HS512","kid":"rsa"}"#)),
        ("alg EdDSA", "jwt.algorithm", header(r#"{"alg":"EdDSA","kid":"ec"}"#)),
        ("alg ES256K", "jwt.algorithm", header(r#"{"alg":"ES256K","kid":"ec"}"#)),
        ("alg es256", "jwt.algorithm", header(r#"{"alg":"es256","kid":"ec"}"#)),
        ("alg with a space", "jwt.algorithm", header(r#"{"alg":"ES256 ","kid":"ec"}"#)),
        ("alg empty", "jwt.algorithm", header(r#"{"alg":"","kid":"ec"}"#)),
        ("alg a list", "jwt.header", header(r#"{"alg":["ES256"],"kid":"ec"}"#)),
        ("alg null", "jwt.header", header(r#"{"alg":null,"kid":"ec"}"#)),
        ("no alg", "jwt.header", header(r#"{"kid":"ec"}"#)),
        ("alg twice", "jwt.header", header(r#"{"alg":"none","alg":"ES256","kid":"ec"}"#)),
        ("kid twice", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","kid":"ec"}"#)),
        ("crit", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","crit":["exp"],"exp":1}"#)),
        ("b64", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","b64":false}"#)),
        ("jwk", "jwt.header", header(&embedded)),
        ("jku", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","jku":"https://127.0.0.1/"}"#)),
        ("x5u", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","x5u":"https://127.0.0.1/"}"#)),
        ("x5c", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","x5c":[]}"#)),
        ("zip", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","zip":"DEF"}"#)),
        ("cty", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","cty":"JWT"}"#)),
        ("typ jwt", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","typ":"jwt"}"#)),
        ("typ at+jwt", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","typ":"at+jwt"}"#)),
        ("typ wit+jwt", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","typ":"wit+jwt"}"#)),
        ("typ a number", "jwt.header", header(r#"{"alg":"ES256","kid":"ec","typ":1}"#)),
        ("kid empty", "jwt.header", header(r#"{"alg":"ES256","kid":""}"#)),
        ("kid a number", "jwt.header", header(r#"{"alg":"ES256","kid":7}"#)),
        ("kid null", "jwt.header", header(r#"{"alg":"ES256","kid":null}"#)),
        ("kid with NUL", "jwt.header", header(r#"{"alg":"ES256","kid":"ec\u0000"}"#)),
        ("kid of 257 bytes", "jwt.header", header(&long)),
        ("kid a path", "jwt.unknown-key", header(r#"{"alg":"ES256","kid":"../../dev/null"}"#)),
        ("kid a query", "jwt.unknown-key", header(r#"{"alg":"ES256","kid":"' OR 1=1 --"}"#)),
        ("kid of another case", "jwt.unknown-key", header(r#"{"alg":"ES256","kid":"EC"}"#)),
        ("kid of another trust domain", "jwt.unknown-key", header(r#"{"alg":"ES256","kid":"foreign"}"#)),
        ("header a list", "jwt.header", header(r#"["ES256"]"#)),
        ("header with bytes behind", "jwt.header", header(r#"{"alg":"ES256","kid":"ec"}x"#)),
        ("header empty", "jwt.header", header("")),
    ]);
}

#[test]
fn signatures() {
    let good = payload(&claims().to_string());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = signed.split_once('.').unwrap();
    let raw = Base64UrlUnpadded::decode_vec(signature).unwrap();
    let claims = claims().to_string();
    let es256 = r#"{"alg":"ES256","kid":"ec"}"#;
    let der = KEYS.ec.sign(signed.as_bytes()).unwrap();
    let mut padded = vec![0; 2];
    padded.extend(&raw);
    check(&[
        ("no signature", "jwt.signature", format!("{signed}.")),
        ("zeros", "jwt.signature", format!("{signed}.{}", encode([0; 64]))),
        ("a byte short", "jwt.signature", format!("{signed}.{}", encode(&raw[1..]))),
        ("bytes in front", "jwt.signature", format!("{signed}.{}", encode(&padded))),
        ("as DER", "jwt.signature", format!("{signed}.{}", encode(der))),
        ("by an unknown key", "jwt.signature", sign(&KEYS.unknown, JwsAlgorithm::Es256, es256, &claims)),
        (
            "by an unknown key, without kid",
            "jwt.unknown-key",
            sign(&KEYS.unknown, JwsAlgorithm::Es256, r#"{"alg":"ES256"}"#, &claims),
        ),
        (
            "by another trust domain's key",
            "jwt.unknown-key",
            sign(&KEYS.foreign, JwsAlgorithm::Es256, r#"{"alg":"ES256","kid":"foreign"}"#, &claims),
        ),
        (
            "by another trust domain's key, without kid",
            "jwt.unknown-key",
            sign(&KEYS.foreign, JwsAlgorithm::Es256, r#"{"alg":"ES256"}"#, &claims),
        ),
        ("the other key's kid", "jwt.signature", ec(r#"{"alg":"ES256","kid":"rsa"}"#, &claims)),
        (
            "RSA with an EC algorithm",
            "jwt.signature",
            sign(&KEYS.rsa, JwsAlgorithm::Rs256, r#"{"alg":"ES256","kid":"rsa"}"#, &claims),
        ),
        (
            "PKCS #1 called PSS",
            "jwt.signature",
            sign(&KEYS.rsa, JwsAlgorithm::Rs256, r#"{"alg":"PS256","kid":"rsa"}"#, &claims),
        ),
        (
            "SHA-256 called SHA-512",
            "jwt.signature",
            sign(&KEYS.rsa, JwsAlgorithm::Rs256, r#"{"alg":"RS512","kid":"rsa"}"#, &claims),
        ),
        ("EC called RSA", "jwt.signature", ec(r#"{"alg":"RS256","kid":"ec"}"#, &claims)),
        (
            "another payload",
            "jwt.signature",
            format!("{head}.{}.{signature}", encode(with("sub", "spiffe://example.org/admin"))),
        ),
        ("another header", "jwt.signature", format!("{}.{body}.{signature}", encode(es256))),
        ("two parts", "jwt.parts", signed.to_owned()),
        ("four parts", "jwt.parts", format!("{good}.{signature}")),
        ("five parts", "jwt.parts", format!("{good}.a.b")),
        ("nothing", "jwt.parts", String::new()),
        ("dots", "jwt.header", "..".to_owned()),
        ("padding", "jwt.encoding", format!("{good}=")),
        ("white space", "jwt.encoding", format!(" {good}")),
        ("a line feed", "jwt.encoding", format!("{good}\n")),
        ("the other alphabet", "jwt.encoding", format!("{head}.{body}.+/{}", &signature[2..])),
        ("Bearer in front", "jwt.encoding", format!("Bearer {good}")),
        ("JSON", "jwt.parts", json!({ "payload": body, "signatures": [] }).to_string()),
        ("20 KB", "jwt.too-long", payload(&with("x", "x".repeat(20_000)))),
    ]);
}

#[test]
fn claim_by_claim() {
    let deep = format!(r#"{{"sub":"spiffe://example.org/web","x":{}}}"#, "[".repeat(5000));
    let twice = |name: &str, value: &str| {
        let claims = claims().to_string();
        format!(r#"{{"{name}":{value},{}"#, &claims[1..])
    };
    let raw_exp = |exp: &str| without("exp").replacen('{', &format!(r#"{{"exp":{exp},"#), 1);
    check(&[
        ("no sub", "jwt.no-subject", payload(&without("sub"))),
        ("sub null", "jwt.claim", payload(&with("sub", Value::Null))),
        ("sub a list", "jwt.claim", payload(&with("sub", json!(["spiffe://example.org/web"])))),
        ("sub empty", "jwt.subject", payload(&with("sub", ""))),
        ("sub a name", "jwt.subject", payload(&with("sub", "web"))),
        ("sub a web address", "jwt.subject", payload(&with("sub", "https://example.org/web"))),
        ("sub in capitals", "jwt.subject", payload(&with("sub", "spiffe://EXAMPLE.org/web"))),
        ("sub with dots", "jwt.subject", payload(&with("sub", "spiffe://example.org/a/../web"))),
        ("sub with a trailing slash", "jwt.subject", payload(&with("sub", "spiffe://example.org/web/"))),
        (
            "sub of 2049 bytes",
            "jwt.subject",
            payload(&with("sub", format!("spiffe://example.org/{}", "a".repeat(2028)))),
        ),
        ("sub the trust domain", "jwt.subject-without-path", payload(&with("sub", "spiffe://example.org"))),
        ("sub of another trust domain", "jwt.unknown-key", payload(&with("sub", "spiffe://example.com/web"))),
        (
            "sub of an unknown trust domain",
            "jwt.unknown-trust-domain",
            payload(&with("sub", "spiffe://example.net/web")),
        ),
        ("sub twice", "jwt.payload", payload(&twice("sub", r#""spiffe://example.org/admin""#))),
        (
            "sub twice, once escaped",
            "jwt.payload",
            payload(&twice(r"\u0073ub", r#""spiffe://example.org/admin""#)),
        ),
        ("no aud", "jwt.no-audience", payload(&without("aud"))),
        ("aud null", "jwt.claim", payload(&with("aud", Value::Null))),
        ("aud a number", "jwt.claim", payload(&with("aud", 1))),
        ("aud an object", "jwt.claim", payload(&with("aud", json!({ "a": AUDIENCE })))),
        ("aud empty list", "jwt.no-audience", payload(&with("aud", json!([])))),
        ("aud empty text", "jwt.audience-bounds", payload(&with("aud", ""))),
        ("aud with an empty text", "jwt.audience-bounds", payload(&with("aud", json!([AUDIENCE, ""])))),
        ("aud with a number", "jwt.claim", payload(&with("aud", json!([AUDIENCE, 1])))),
        ("aud nested", "jwt.claim", payload(&with("aud", json!([[AUDIENCE]])))),
        ("aud of another", "jwt.audience", payload(&with("aud", "spiffe://example.org/other"))),
        ("aud in capitals", "jwt.audience", payload(&with("aud", AUDIENCE.to_uppercase()))),
        ("aud with a suffix", "jwt.audience", payload(&with("aud", format!("{AUDIENCE}/x")))),
        ("aud a prefix", "jwt.audience", payload(&with("aud", "spiffe://example.org"))),
        ("aud a star", "jwt.audience", payload(&with("aud", "*"))),
        ("33 audiences", "jwt.audience-bounds", payload(&with("aud", vec![AUDIENCE; 33]))),
        (
            "an audience of 2049 bytes",
            "jwt.audience-bounds",
            payload(&with("aud", json!([AUDIENCE, "a".repeat(2049)]))),
        ),
        ("no exp", "jwt.no-expiry", payload(&without("exp"))),
        ("exp null", "jwt.time", payload(&with("exp", Value::Null))),
        ("exp as text", "jwt.time", payload(&with("exp", (NOW + 300).to_string()))),
        ("exp true", "jwt.time", payload(&with("exp", true))),
        ("exp with a fraction", "jwt.time", payload(&raw_exp("1767225900.5"))),
        ("exp with a fraction of zero", "jwt.time", payload(&raw_exp("1767225900.0"))),
        ("exp with an exponent", "jwt.time", payload(&raw_exp("2e9"))),
        ("exp beyond 64 bits", "jwt.time", payload(&raw_exp("99999999999999999999"))),
        ("exp beyond 63 bits", "jwt.time", payload(&raw_exp("9223372036854775808"))),
        ("exp beyond the year 9999", "jwt.time", payload(&raw_exp("253402300800"))),
        ("exp negative", "jwt.time", payload(&with("exp", -1))),
        ("exp a list", "jwt.time", payload(&with("exp", json!([NOW + 300])))),
        ("exp twice", "jwt.payload", payload(&twice("exp", "9999999999"))),
        ("exp now", "jwt.expired", payload(&with("exp", NOW))),
        ("exp past", "jwt.expired", payload(&with("exp", NOW - 1))),
        ("exp zero", "jwt.expired", payload(&with("exp", 0))),
        ("nbf in a second", "jwt.not-yet-valid", payload(&with("nbf", NOW + 1))),
        ("nbf as text", "jwt.time", payload(&with("nbf", NOW.to_string()))),
        ("nbf with a fraction", "jwt.time", payload(&with("nbf", 1.5))),
        ("nbf null", "jwt.time", payload(&with("nbf", Value::Null))),
        ("iat as text", "jwt.time", payload(&with("iat", "0"))),
        ("iat tomorrow", "jwt.issued-in-the-future", payload(&with("iat", NOW + 61))),
        ("iat at the end of time", "jwt.time", payload(&with("iat", i64::MAX))),
        ("jti a number", "jwt.claim", payload(&with("jti", 1))),
        ("payload a list", "jwt.payload", payload("[]")),
        ("payload text", "jwt.payload", payload(r#""x""#)),
        ("payload empty", "jwt.payload", payload("")),
        ("payload not JSON", "jwt.payload", payload("{'sub':1}")),
        ("payload with bytes behind", "jwt.payload", payload(&format!("{}{{}}", claims()))),
        ("payload not UTF-8", "jwt.payload", {
            let signed =
                format!("{}.{}", encode(r#"{"alg":"ES256","kid":"ec"}"#), encode(b"{\"sub\":\"\xff\"}"));
            format!("{signed}.{}", encode(raw_ecdsa(&KEYS.ec.sign(signed.as_bytes()).unwrap())))
        }),
        ("payload deeply nested", "jwt.payload", payload(&deep)),
    ]);
}

#[test]
fn the_verifier_must_know_its_name() {
    let token = payload(&claims().to_string());
    assert_eq!(verdict_at(&token, "", NOW), "jwt.no-own-audience");
    assert_eq!(verdict_at(&token, "other", NOW), "jwt.audience");
    assert_eq!(verdict_at(&token, AUDIENCE, i64::MAX), "jwt.expired");
    assert_eq!(verdict_at(&token, AUDIENCE, i64::MIN), "jwt.issued-in-the-future");
}

#[test]
fn an_empty_bundle_revokes_everything() {
    let bundles = BundleMap::from(TrustBundle::new(TrustDomain::parse("example.org").unwrap()));
    for token in [payload(&claims().to_string()), header(r#"{"alg":"ES256"}"#)] {
        let error = jwt::verify(&token, &bundles, AUDIENCE, UnixTime::from_secs(NOW)).unwrap_err();
        assert_eq!(error.code(), "jwt.unknown-key");
    }
}

#[test]
fn keys_tried_without_kid_are_bounded() {
    let mut bundle = TrustBundle::new(TrustDomain::parse("example.org").unwrap());
    for number in 0..16 {
        bundle =
            bundle.with_jwt_authority(format!("{number:02}"), key(KeyAlgorithm::EcP256).public_key().clone());
    }
    let bundle = bundle.with_jwt_authority("zz", KEYS.ec.public_key().clone());
    let bundles = BundleMap::from(bundle);
    let now = UnixTime::from_secs(NOW);
    let anonymous = header(r#"{"alg":"ES256"}"#);
    assert_eq!(jwt::verify(&anonymous, &bundles, AUDIENCE, now).unwrap_err().code(), "jwt.unknown-key");
    assert!(jwt::verify(&header(r#"{"alg":"ES256","kid":"zz"}"#), &bundles, AUDIENCE, now).is_ok());
}

fn to_issue() -> JwtClaims {
    JwtClaims {
        id: SpiffeId::parse("spiffe://example.org/web").unwrap(),
        audience: vec![AUDIENCE.to_owned(), "other".to_owned()],
        issued_at: UnixTime::from_secs(NOW - 30),
        expires_at: UnixTime::from_secs(NOW + 300),
        instance: Some(InstanceId::from_bytes([7; 16])),
        jti: Some("1".to_owned()),
    }
}

#[test]
fn what_is_issued_is_verified() {
    for (kid, key) in [("ec", &KEYS.ec), ("rsa", &KEYS.rsa)] {
        let claims = to_issue();
        let token = jwt::issue(&claims, key, kid).unwrap();
        let svid = jwt::verify(&token, &BUNDLES, AUDIENCE, UnixTime::from_secs(NOW)).unwrap();
        assert_eq!((svid.id(), svid.audience()), (&claims.id, claims.audience.as_slice()));
        assert_eq!((svid.expires_at(), svid.issued_at()), (claims.expires_at, Some(claims.issued_at)));
        assert_eq!(
            (svid.instance(), svid.claims()["jti"].as_str()),
            (claims.instance, claims.jti.as_deref())
        );
        assert_eq!(svid.token(), token);
        assert!(!format!("{svid:?}").contains(&token[..20]));
        let received = JwtSvid::from_trusted_source(&token, Some("internal".to_owned())).unwrap();
        assert_eq!((received.id(), received.hint()), (svid.id(), Some("internal")));
        let head = Base64UrlUnpadded::decode_vec(token.split('.').next().unwrap()).unwrap();
        let head: Value = serde_json::from_slice(&head).unwrap();
        assert_eq!((head["kid"].as_str(), head["typ"].as_str()), (Some(kid), Some("JWT")));
    }
}

#[test]
fn what_is_not_issued() {
    let refused = |change: fn(&mut JwtClaims)| {
        let mut claims = to_issue();
        change(&mut claims);
        jwt::issue(&claims, &KEYS.ec, "ec").unwrap_err().code()
    };
    assert_eq!(refused(|c| c.id = c.id.trust_domain().id()), "jwt.subject-without-path");
    assert_eq!(refused(|c| c.audience.clear()), "jwt.no-audience");
    assert_eq!(refused(|c| c.audience.push(String::new())), "jwt.audience-bounds");
    assert_eq!(refused(|c| c.audience = vec!["a".to_owned(); 33]), "jwt.audience-bounds");
    assert_eq!(refused(|c| c.audience = vec!["a".repeat(2000); 20]), "jwt.too-long");
    assert_eq!(refused(|c| c.expires_at = c.issued_at), "jwt.time");
    assert_eq!(refused(|c| c.expires_at = UnixTime::from_secs(i64::MAX)), "jwt.time");
    assert_eq!(refused(|c| c.issued_at = UnixTime::from_secs(-1)), "jwt.time");
    assert_eq!(refused(|c| c.jti = Some(String::new())), "jwt.claim");
    assert_eq!(jwt::issue(&to_issue(), &KEYS.ec, "").unwrap_err().code(), "jwt.key-id");
    let ed25519 = key(KeyAlgorithm::Ed25519);
    assert_eq!(jwt::issue(&to_issue(), &ed25519, "ed").unwrap_err().code(), "jwt.unsuitable-key");
}

proptest! {
    #[test]
    fn a_changed_character_is_refused(at: prop::sample::Index, replacement in "[A-Za-z0-9_.-]") {
        let token = payload(&claims().to_string());
        let at = at.index(token.len());
        let changed = format!("{}{replacement}{}", &token[..at], &token[at + 1..]);
        prop_assert_eq!(verdict(&changed) == "ok", changed == token);
    }

    #[test]
    fn never_panics(token in "[a-zA-Z0-9_.=-]{0,60}") {
        prop_assert_ne!(verdict(&token), "ok");
    }
}
