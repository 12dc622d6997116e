//! Identity documents: what an OpenID provider or a SPIFFE trust domain says of who begins a task.
//!
//! Owns: the key sets of the trust bundle, which are all that a document is checked by; the form of a signed token (RFC 7515,
//! 7519), an ID token and a JWT-SVID; the signatures.
//! Never: fetches a key, or takes one that a document brings along; lets a document choose how it is checked; judges time, which
//! `agent/identity.rs` does by the trusted clock.
//! Read next: `json.rs`, which reads what is in a document; `agent/identity.rs`.

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::bundle::PublicKey;
use super::json::{self, Json};
use super::{encode, Refused};
use crate::ids::Hash;

/// The most bytes of a document: those of providers that list a user's groups have some thousand.
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024;
/// The most issuers that a trust bundle names.
pub const ISSUERS_MAX: usize = 16;
/// The most keys of one issuer: the one in use, the next, and those of before whose documents live still.
pub const KEYS_MAX: usize = 8;
/// The most audiences of one issuer.
pub const AUDIENCES_MAX: usize = 8;
/// The most bytes of all of it: a trust bundle is one message, which has other things to say.
pub const IDENTITIES_BYTES_MAX: usize = 8 * 1024;
/// The most bytes of an issuer's name, a subject and an audience.
pub const NAME_BYTES_MAX: usize = 255;
/// The most bytes of a key's name.
const KID_BYTES_MAX: usize = 128;
/// RSA keys have 2048 to 4096 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;
/// Before this in the name of an issuer: a SPIFFE trust domain.
const SPIFFE: &str = "spiffe://";

/// Which form a document has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DocumentType {
    /// An ID token of an OpenID provider.
    Oidc,
    /// A JWT-SVID of a SPIFFE trust domain.
    JwtSvid,
}

/// Who may say who somebody is, and by which keys that is checked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdentityIssuer {
    /// The issuer of an OpenID provider, `https://…`, exactly as its tokens say it; or a trust domain, `spiffe://NAME`.
    pub name: String,
    /// A document is for one of these, or refused.
    pub audiences: Vec<String>,
    /// The keys that count. Several, so that one can take the place of another while documents of both live.
    pub keys: Vec<IdentityKey>,
}

/// One key of an issuer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdentityKey {
    /// Its name in the headers of documents.
    pub kid: String,
    /// The key. It says the algorithm, whatever a document says.
    pub key: VerifyingKey,
}

/// A public key with the one algorithm that it is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VerifyingKey {
    /// `EdDSA` with Ed25519.
    EdDsa(PublicKey),
    /// `ES256`: a point of P-256, uncompressed, in 65 bytes.
    Es256(Vec<u8>),
    /// `RS256`: modulus and exponent, big-endian, without zeros before.
    Rs256 {
        /// 256 to 512 bytes.
        modulus: Vec<u8>,
        /// 65537 at least.
        exponent: Vec<u8>,
    },
}

impl VerifyingKey {
    /// The algorithm's name in headers.
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::EdDsa(_) => "EdDSA",
            Self::Es256(_) => "ES256",
            Self::Rs256 { .. } => "RS256",
        }
    }

    fn verify(&self, message: &[u8], signed: &[u8]) -> bool {
        match self {
            Self::EdDsa(key) => ed25519_dalek::Signature::from_slice(signed)
                .is_ok_and(|signature| key.verifying().verify_strict(message, &signature).is_ok()),
            Self::Es256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signed).is_ok()
            }
            Self::Rs256 { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed)
                .is_ok(),
        }
    }

    /// Whether it can be a key at all: one that never verifies anything would be noticed too late.
    fn check(&self) -> Result<(), Refused> {
        match self {
            Self::EdDsa(_) => Ok(()),
            Self::Es256(point) => {
                let known = biscuit_auth::PublicKey::from_bytes(point, biscuit_auth::builder::Algorithm::Secp256r1);
                let fits = point.len() == 65 && known.is_ok();
                fits.then_some(()).ok_or(Refused::Malformed("an identity key that is no point of P-256"))
            }
            Self::Rs256 { modulus, exponent } => {
                let sized = MODULUS_BYTES.contains(&modulus.len()) && modulus.first().is_some_and(|byte| *byte >= 0x80);
                let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
                let large = exponent.first() != Some(&0) && (3..=4).contains(&exponent.len());
                let fits = sized && large && odd(modulus) && odd(exponent);
                fits.then_some(()).ok_or(Refused::Malformed(
                    "an RSA identity key that has not 2048 to 4096 bits, or an exponent below 65537",
                ))
            }
        }
    }
}

impl IdentityKey {
    /// What names the key itself, whatever it is called.
    pub fn digest(&self) -> Hash {
        Hash::of("hardtack/identity-key/v1", &[&encode(&self.key)])
    }

    /// Name, algorithm and the key itself, for people who compare.
    pub fn words(&self) -> String {
        format!("{:?} ({}, {})", self.kid, self.key.algorithm(), self.digest())
    }
}

impl IdentityIssuer {
    /// Which documents it gives out.
    pub fn document_type(&self) -> DocumentType {
        if self.name.starts_with(SPIFFE) {
            DocumentType::JwtSvid
        } else {
            DocumentType::Oidc
        }
    }

    /// Whether all of it has its form.
    ///
    /// # Errors
    /// [`Refused::Malformed`] with what has not.
    pub fn check(&self) -> Result<(), Refused> {
        let named = match self.name.strip_prefix(SPIFFE) {
            Some(domain) => is_trust_domain(domain),
            None => is_issuer_url(&self.name),
        };
        if !named {
            return Err(Refused::Malformed(
                "an identity issuer that is neither an https:// URL without query and fragment nor a trust domain, spiffe://NAME",
            ));
        }
        if self.audiences.is_empty() || self.audiences.len() > AUDIENCES_MAX || !all_once(&self.audiences) {
            return Err(Refused::Malformed("an identity issuer has 1 to 8 audiences, each once"));
        }
        if !self.audiences.iter().all(|audience| is_text(audience, NAME_BYTES_MAX)) {
            return Err(Refused::Malformed("an audience has 1 to 255 bytes and no control character"));
        }
        if self.keys.is_empty() || self.keys.len() > KEYS_MAX || !all_once(self.keys.iter().map(|key| &key.kid)) {
            return Err(Refused::Malformed("an identity issuer has 1 to 8 keys, each with a kid of its own"));
        }
        if !self.keys.iter().all(|key| is_text(&key.kid, KID_BYTES_MAX)) {
            return Err(Refused::Malformed("the kid of an identity key has 1 to 128 bytes and no control character"));
        }
        self.keys.iter().try_for_each(|key| key.key.check())
    }
}

/// Whether a trust bundle may name these.
///
/// # Errors
/// [`Refused::Malformed`] with what is wrong.
pub fn check_issuers(issuers: &[IdentityIssuer]) -> Result<(), Refused> {
    if issuers.len() > ISSUERS_MAX || !all_once(issuers.iter().map(|issuer| &issuer.name)) {
        return Err(Refused::Malformed("more than 16 identity issuers, or one twice"));
    }
    issuers.iter().try_for_each(IdentityIssuer::check)?;
    if encode(&issuers).len() > IDENTITIES_BYTES_MAX {
        return Err(Refused::Malformed("more than 8 KiB of identity issuers: leave keys out that are no longer used"));
    }
    Ok(())
}

fn all_once<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}

/// Whether a text may stand in a record and on a terminal.
fn is_text(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control)
}

/// Whether a document can be of this subject.
pub fn is_subject(subject: &str) -> bool {
    is_text(subject, NAME_BYTES_MAX)
}

/// RFC 8414 and OpenID Connect Discovery: `https`, a host, no query, no fragment.
pub fn is_issuer_url(name: &str) -> bool {
    let host = name.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'\\');
    host.is_some_and(|host| !host.is_empty()) && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain)
}

fn is_trust_domain(name: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX - SPIFFE.len() && name.bytes().all(plain)
}

/// The trust domain of a workload's SPIFFE ID: with a path of plain segments, none of them `.` or `..`.
pub fn trust_domain(id: &str) -> Option<&str> {
    let (domain, path) = id.strip_prefix(SPIFFE)?.split_once('/')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
    (is_trust_domain(domain) && path.split('/').all(segment)).then_some(domain)
}

/// What is wrong with a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Of which kind.
    pub kind: FaultKind,
    /// What happened and what to do.
    pub detail: String,
}

impl Fault {
    /// A fault.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// Kinds of faults of identity documents: a closed list. A document with several is refused for the first that is found: its form
/// and issuer are looked at before its key and signature, and these before what is signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// More bytes than are looked at.
    TooLarge,
    /// No signed token of the form.
    Malformed,
    /// An algorithm that is not the key's, or none that counts.
    WrongAlgorithm,
    /// Nobody whom the trust bundle names.
    UnknownIssuer,
    /// A key that the trust bundle does not name.
    UnknownKey,
    /// The signature does not fit.
    BadSignature,
    /// For somebody else.
    WrongAudience,
    /// Not valid yet as far as anyone can prove.
    NotYetValid,
    /// Past its end as far as this device can rule out.
    Expired,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::TooLarge,
        Self::Malformed,
        Self::WrongAlgorithm,
        Self::UnknownIssuer,
        Self::UnknownKey,
        Self::BadSignature,
        Self::WrongAudience,
        Self::NotYetValid,
        Self::Expired,
    ];

    /// The name in problems and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "identity_too_large",
            Self::Malformed => "identity_malformed",
            Self::WrongAlgorithm => "identity_wrong_algorithm",
            Self::UnknownIssuer => "identity_unknown_issuer",
            Self::UnknownKey => "identity_unknown_key",
            Self::BadSignature => "identity_bad_signature",
            Self::WrongAudience => "identity_wrong_audience",
            Self::NotYetValid => "identity_not_yet_valid",
            Self::Expired => "identity_expired",
        }
    }
}

/// What a document says whose signature fits and which is for us. Times in seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claimed {
    /// Who says so, as the trust bundle names him.
    pub issuer: String,
    /// Who it is.
    pub subject: String,
    /// The end: from here on it counts no more.
    pub expires_s: u64,
    /// The latest of the times before which it does not count.
    pub not_before_s: u64,
    /// The key that signed it.
    pub key: Hash,
}

/// Members of a header that would have the document choose its own key or way, or change what is signed.
const HEADERS_REFUSED: [&str; 9] = ["crit", "jwk", "jku", "x5c", "x5u", "b64", "zip", "enc", "cty"];

/// Checks all of a document but its time.
///
/// # Errors
/// The first [`Fault`].
pub fn verify(form: DocumentType, token: &str, issuers: &[IdentityIssuer]) -> Result<Claimed, Fault> {
    let malformed = |what: &str| Fault::new(FaultKind::Malformed, format!("the identity document {what}"));
    if token.len() > DOCUMENT_BYTES_MAX {
        let detail =
            format!("the identity document has more than {DOCUMENT_BYTES_MAX} bytes; ask for one with fewer claims");
        return Err(Fault::new(FaultKind::TooLarge, detail));
    }
    let (signed, signature) =
        token.rsplit_once('.').ok_or_else(|| malformed("is no signed token: HEADER.CLAIMS.SIGNATURE"))?;
    let (header, claims) =
        signed.split_once('.').ok_or_else(|| malformed("is no signed token: HEADER.CLAIMS.SIGNATURE"))?;
    let decode = |part: &str, what: &str| {
        let text = BASE64URL_NOPAD.decode(part.as_bytes());
        text.map_err(|_| malformed(&format!("has {what} that is not base64url without padding")))
    };
    let object = |part: &str, what: &str| {
        let bytes = decode(part, what)?;
        json::object(&bytes).map_err(|why| malformed(&format!("has {what} that is refused: {why}")))
    };
    let signature = decode(signature, "a signature")?;
    let header = object(header, "a header")?;
    let claims = object(claims, "claims")?;

    let key_name = check_header(&header, malformed)?;
    let issuer = issuer_of(form, &claims, issuers, malformed)?;
    let key = choose_key(&header, key_name, issuer)?;
    if !key.key.verify(signed.as_bytes(), &signature) {
        let detail = format!("the identity document is not signed by key {:?} of {}", key.kid, issuer.name);
        return Err(Fault::new(FaultKind::BadSignature, detail));
    }
    // From here on what is said is what the issuer said.
    let subject = text_of(&claims, "sub").map_err(malformed)?.unwrap_or_default();
    if !is_subject(subject) {
        return Err(malformed("needs a `sub` of 1 to 255 bytes without control characters"));
    }
    if !audience_fits(&claims, &issuer.audiences).map_err(malformed)? {
        let detail = format!(
            "the identity document is for another audience; ask {} for one for {}",
            issuer.name,
            issuer.audiences.join(" or ")
        );
        return Err(Fault::new(FaultKind::WrongAudience, detail));
    }
    let time = |name: &str, up: bool| seconds(&claims, name, up).map_err(malformed);
    let expires_s = time("exp", false)?.ok_or_else(|| malformed("has no end: `exp` must be there"))?;
    let issued = time("iat", true)?;
    if form == DocumentType::Oidc && issued.is_none() {
        return Err(malformed("does not say when it was issued: an ID token has `iat`"));
    }
    let not_before_s = issued.max(time("nbf", true)?).unwrap_or(0);
    Ok(Claimed { issuer: issuer.name.clone(), subject: subject.to_owned(), expires_s, not_before_s, key: key.digest() })
}

/// The name of the key, if the header says one and nothing that it must not.
fn check_header(header: &Json, malformed: impl Fn(&str) -> Fault + Copy) -> Result<Option<&str>, Fault> {
    if let Some(refused) = HEADERS_REFUSED.iter().find(|name| header.get(name).is_some()) {
        return Err(malformed(&format!(
            "has {refused:?} in its header: keys and ways come from the trust bundle alone"
        )));
    }
    let kind = text_of(header, "typ").map_err(malformed)?;
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("JWT") && !kind.eq_ignore_ascii_case("JOSE")) {
        return Err(malformed("is a token of another type: an ID token or a JWT-SVID has `typ` JWT, or none"));
    }
    text_of(header, "kid").map_err(malformed)
}

fn issuer_of<'i>(
    form: DocumentType,
    claims: &Json,
    issuers: &'i [IdentityIssuer],
    malformed: impl Fn(&str) -> Fault + Copy,
) -> Result<&'i IdentityIssuer, Fault> {
    let name = match form {
        DocumentType::Oidc => {
            let issuer = text_of(claims, "iss").map_err(malformed)?;
            issuer.ok_or_else(|| malformed("does not say who issued it: an ID token has `iss`"))?.to_owned()
        }
        DocumentType::JwtSvid => {
            let subject = text_of(claims, "sub").map_err(malformed)?.unwrap_or_default();
            let domain = trust_domain(subject);
            format!("{SPIFFE}{}", domain.ok_or_else(|| malformed("has no workload's SPIFFE ID in `sub`"))?)
        }
    };
    let known = issuers.iter().find(|issuer| issuer.document_type() == form && issuer.name == name);
    known.ok_or_else(|| {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(NAME_BYTES_MAX).collect();
        let detail = format!(
            "nobody in the trust bundle is called {shown}; the operator adds issuers with `hardtack fleet identity add`"
        );
        Fault::new(FaultKind::UnknownIssuer, detail)
    })
}

/// The key that a document is checked by. Which algorithm that is, the key says; the header may only agree.
fn choose_key<'i>(header: &Json, named: Option<&str>, issuer: &'i IdentityIssuer) -> Result<&'i IdentityKey, Fault> {
    let algorithm = match header.get("alg") {
        Some(Json::Text(algorithm)) => algorithm.as_str(),
        Some(_) | None => "",
    };
    if !["EdDSA", "ES256", "RS256"].contains(&algorithm) {
        let detail = "the identity document is signed by another algorithm than EdDSA, ES256 and RS256, or not at all";
        return Err(Fault::new(FaultKind::WrongAlgorithm, detail));
    }
    let unknown = |detail: String| Fault::new(FaultKind::UnknownKey, detail);
    let key = match named {
        Some(kid) => issuer.keys.iter().find(|key| key.kid == kid).ok_or_else(|| {
            let detail = format!(
                "the trust bundle has no such key of {}; if it was replaced, the operator brings the new set with \
                 `hardtack fleet identity add`",
                issuer.name
            );
            unknown(detail)
        })?,
        None => match issuer.keys.as_slice() {
            [only] => only,
            _ => return Err(unknown(format!("the header names no key, and {} has several", issuer.name))),
        },
    };
    if key.key.algorithm() != algorithm {
        let detail = format!("key {:?} of {} is for {}, and nothing else", key.kid, issuer.name, key.key.algorithm());
        return Err(Fault::new(FaultKind::WrongAlgorithm, detail));
    }
    Ok(key)
}

fn text_of<'j>(object: &'j Json, name: &str) -> Result<Option<&'j str>, &'static str> {
    match object.get(name) {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text)),
        Some(_) => Err("has a member of another type than it must have: iss, sub, kid and typ are texts"),
    }
}

fn audience_fits(claims: &Json, ours: &[String]) -> Result<bool, &'static str> {
    let is_ours = |audience: &Json| matches!(audience, Json::Text(audience) if ours.contains(audience));
    match claims.get("aud") {
        Some(Json::List(all)) if all.iter().all(|audience| matches!(audience, Json::Text(_))) => {
            Ok(all.iter().any(is_ours))
        }
        Some(one @ Json::Text(_)) => Ok(is_ours(one)),
        Some(_) | None => Err("does not say whom it is for: `aud` is a text or a list of texts"),
    }
}

/// A time of RFC 7519 in whole seconds, up to the year 9999.
fn seconds(claims: &Json, name: &str, up: bool) -> Result<Option<u64>, &'static str> {
    const LATEST: f64 = 253_402_300_799.0;
    match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(number)) if (0.0..=LATEST).contains(number) => {
            let whole = if up { number.ceil() } else { number.floor() };
            Ok(Some(whole as u64))
        }
        Some(_) => Err("has a time that is none: exp, iat and nbf are seconds since 1970, up to the year 9999"),
    }
}

/// A key set (RFC 7517), as a provider or a trust domain publishes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeySet {
    /// Keys that can check documents.
    pub keys: Vec<IdentityKey>,
    /// Others, and why they are none.
    pub left_out: Vec<String>,
}

/// The most bytes of a key set.
pub const KEY_SET_BYTES_MAX: usize = 64 * 1024;

/// Reads a key set: keys for other purposes are left out, and nothing of them is kept.
///
/// # Errors
/// What is wrong with it, in a sentence. A private or a shared key is refused with all that is beside it.
pub fn read_key_set(bytes: &[u8]) -> Result<KeySet, String> {
    if bytes.len() > KEY_SET_BYTES_MAX {
        return Err(format!("a key set has at most {KEY_SET_BYTES_MAX} bytes"));
    }
    let set = json::object(bytes).map_err(|why| format!("no key set: {why}"))?;
    let Some(Json::List(keys)) = set.get("keys") else { return Err("no key set: it has no list `keys`".into()) };
    let mut found = KeySet { keys: Vec::new(), left_out: Vec::new() };
    for (place, key) in keys.iter().enumerate() {
        let text = |name: &str| match key.get(name) {
            Some(Json::Text(text)) => text.as_str(),
            Some(_) | None => "",
        };
        let (kid, kind) = (text("kid"), text("kty"));
        let called = if kid.is_empty() { format!("key {place}") } else { format!("key {kid:?}") };
        if key.get("d").is_some() || key.get("k").is_some() || kind == "oct" {
            return Err(format!(
                "{called} is a private or a shared key: take the public keys alone, and keep that one safe"
            ));
        }
        match read_key(&text) {
            Ok(_) if kid.is_empty() => found.left_out.push(format!("{called}: it has no kid")),
            Ok(key) => found.keys.push(IdentityKey { kid: kid.to_owned(), key }),
            Err(why) => found.left_out.push(format!("{called}: {why}")),
        }
    }
    if found.keys.is_empty() {
        return Err(format!("no key in it can check a document: {}", found.left_out.join("; ")));
    }
    Ok(found)
}

fn read_key<'j>(text: &impl Fn(&'static str) -> &'j str) -> Result<VerifyingKey, String> {
    if !matches!(text("use"), "" | "sig" | "jwt-svid") {
        return Err(format!("it is for {:?}", text("use")));
    }
    let number = |name: &'static str| {
        let bytes = BASE64URL_NOPAD.decode(text(name).as_bytes()).ok().filter(|bytes| !bytes.is_empty());
        bytes.ok_or_else(|| format!("{name:?} is not in base64url"))
    };
    let key = match (text("kty"), text("crv")) {
        ("OKP", "Ed25519") => {
            let bytes: [u8; 32] = number("x")?.try_into().map_err(|_| "an Ed25519 key has 32 bytes".to_owned())?;
            VerifyingKey::EdDsa(PublicKey::try_from(bytes).map_err(|refused| refused.to_string())?)
        }
        ("EC", "P-256") => VerifyingKey::Es256([&[4][..], &number("x")?, &number("y")?].concat()),
        ("RSA", _) => {
            let bare = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            VerifyingKey::Rs256 { modulus: bare(number("n")?), exponent: bare(number("e")?) }
        }
        (kind, curve) => return Err(format!("{kind} {curve} is neither Ed25519, P-256 nor RSA")),
    };
    let algorithm = text("alg");
    if !algorithm.is_empty() && algorithm != key.algorithm() {
        return Err(format!("it is for {algorithm:?}; EdDSA, ES256 and RS256 count"));
    }
    key.check().map_err(|refused| refused.to_string())?;
    Ok(key)
}

/// What a person compares before he signs a bundle that trusts an issuer.
pub fn words(issuer: &IdentityIssuer) -> Vec<String> {
    let audiences = issuer.audiences.iter().map(|audience| format!("{:?}, for audience {audience:?}", issuer.name));
    let keys = issuer.keys.iter().map(|key| format!("{:?}, key {}", issuer.name, key.words()));
    audiences.chain(keys).collect()
}

#[cfg(test)]
mod tests;
