//! JWT-SVIDs.

use bonafide_crypto::jose::{CompactJws, Limits};
use bonafide_identity::{JwtSvid, UnixTime, jwt};

use super::{Trust, bundles, foreign, moment};
use crate::{
    Failure,
    moment::Moment,
    view::inspection::{Finding, InspectionView, Verification},
};

/// Claims that have a line of their own.
const SHOWN: [&str; 5] = ["sub", "aud", "exp", "iat", jwt::INSTANCE_CLAIM];

/// What a token says, and whether it is true.
pub(super) fn inspect(token: &str, trust: &Trust, now: UnixTime) -> Result<InspectionView, Failure> {
    let mut finding = Finding::new("jwt-svid");
    match CompactJws::parse(token, Limits::default()) {
        Ok(jws) => {
            let header = jws.header();
            finding = finding
                .text("signed with", header.alg.to_string())
                .text("key ID", header.kid.as_deref().unwrap_or("none"));
        }
        Err(cause) => {
            let finding =
                finding.problem(cause.code(), cause, "a JWT-SVID has `alg`, `kid` and `typ` in its header");
            return Ok(finding.into());
        }
    }
    let svid = match JwtSvid::from_trusted_source(token, None) {
        Ok(svid) => svid,
        Err(cause) => return Ok(finding.problem(cause.code(), &cause, cause.hint()).into()),
    };
    finding = finding
        .text("SPIFFE ID", svid.id().as_str())
        .list("audience", svid.audience().to_vec())
        .text("instance", svid.instance().map(|instance| instance.to_string()).unwrap_or_default());
    if let Some(issued_at) = svid.issued_at() {
        finding = finding.time("issued", moment(issued_at));
    }
    finding = finding.time("expires", Moment(svid.expires_at().as_secs()));
    let others = svid.claims().iter().filter(|(name, _)| !SHOWN.contains(&name.as_str()));
    finding = finding.list("other claims", others.map(|(name, value)| format!("{name}: {value}")).collect());
    if now >= svid.expires_at() {
        finding = finding.problem("jwt.expired", "it has expired", "ask for a new one: `bonafide svid jwt`");
    }
    let verification = verify(&svid, trust, now)?;
    Ok(InspectionView { findings: vec![finding], verification: Some(verification) })
}

fn verify(svid: &JwtSvid, trust: &Trust, now: UnixTime) -> Result<Verification, Failure> {
    let own = svid.id().trust_domain();
    let Some((bundles, source)) = bundles(trust, Some(own))? else {
        return Ok(Verification::NotAsked);
    };
    if let Some(refusal) = foreign(trust, Some(own)) {
        return Ok(refusal);
    }
    let claimed = svid.audience().first().map(String::as_str).unwrap_or_default();
    let (audience, said) = match &trust.audience {
        Some(audience) => (audience.as_str(), ""),
        None => (claimed, " (the token's own: --audience pins it)"),
    };
    Ok(match jwt::verify(svid.token(), &bundles, audience, now) {
        Ok(verified) => Verification::verified(format!(
            "a key of the bundle signed it for {}, {source}, and audience `{audience}`{said}",
            verified.id()
        )),
        Err(cause) => Verification::failed(cause.code(), &cause, cause.hint()),
    })
}
