//! Documents of strangers: what is one, and what is none.

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use serde_json::{json, Value};

use super::*;

const ISSUER: &str = "https://id.example/realms/ops";
const DOMAIN: &str = "spiffe://acme.example";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn named(kid: &str, seed: u8) -> IdentityKey {
    IdentityKey { kid: kid.into(), key: VerifyingKey::EdDsa(key(seed).verifying_key().into()) }
}

fn issuers() -> Vec<IdentityIssuer> {
    let audiences = vec!["hardtack".to_owned(), "https://gw.example".to_owned()];
    let of = |name: &str, keys| IdentityIssuer { name: name.into(), audiences: audiences.clone(), keys };
    vec![of(ISSUER, vec![named("a", 1), named("b", 2)]), of(DOMAIN, vec![named("s", 3)])]
}

fn base64(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

fn signed_text(header: &str, claims: &str, seed: u8) -> String {
    let parts = [header, claims].map(|text| BASE64URL_NOPAD.encode(text.as_bytes())).join(".");
    let signature = key(seed).sign(parts.as_bytes());
    format!("{parts}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes()))
}

fn signed(header: &Value, claims: &Value, seed: u8) -> String {
    signed_text(&header.to_string(), &claims.to_string(), seed)
}

fn header() -> Value {
    json!({"alg": "EdDSA", "kid": "a", "typ": "JWT"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "ann", "aud": "hardtack", "exp": 2000, "iat": 1000, "nbf": 1001.5})
}

fn edited(mut value: Value, edits: Value) -> Value {
    for (name, edit) in edits.as_object().unwrap() {
        value[name] = edit.clone();
    }
    value
}

fn oidc(token: &str) -> Result<Claimed, FaultKind> {
    verify(DocumentType::Oidc, token, &issuers()).map_err(|fault| fault.kind)
}

fn svid(token: &str) -> Result<Claimed, FaultKind> {
    verify(DocumentType::JwtSvid, token, &issuers()).map_err(|fault| fault.kind)
}

#[test]
fn a_document_says_who_by_the_word_of_whom_and_how_long() {
    let said = oidc(&signed(&header(), &claims(), 1)).unwrap();
    assert_eq!((said.issuer.as_str(), said.subject.as_str()), (ISSUER, "ann"));
    assert_eq!((said.expires_s, said.not_before_s), (2000, 1002), "rounded so that it counts for less");
    assert_eq!(said.key, named("other", 1).digest(), "the key itself, whatever it is called");
    let rotated = signed(
        &edited(header(), json!({"kid": "b"})),
        &edited(claims(), json!({"aud": ["x", "https://gw.example"]})),
        2,
    );
    assert_eq!(oidc(&rotated).unwrap().key, named("b", 2).digest());
    // Others than the one named are not tried.
    assert_eq!(oidc(&signed(&header(), &claims(), 2)), Err(FaultKind::BadSignature));

    let own = json!({"sub": "spiffe://acme.example/pump/planner", "aud": ["hardtack"], "exp": 2000});
    let said = svid(&signed(&json!({"alg": "EdDSA", "kid": "s"}), &own, 3)).unwrap();
    assert_eq!((said.issuer.as_str(), said.subject.as_str()), (DOMAIN, "spiffe://acme.example/pump/planner"));
    assert_eq!(said.not_before_s, 0);
    // The only key need not be named.
    assert!(svid(&signed(&json!({"alg": "EdDSA"}), &own, 3)).is_ok());
    // Neither counts as the other.
    assert_eq!(oidc(&signed(&json!({"alg": "EdDSA"}), &own, 3)), Err(FaultKind::Malformed));
    assert_eq!(svid(&signed(&header(), &claims(), 1)), Err(FaultKind::Malformed));
    let both = edited(own, json!({"iss": DOMAIN, "iat": 1}));
    assert_eq!(oidc(&signed(&json!({"alg": "EdDSA"}), &both, 3)), Err(FaultKind::UnknownIssuer));
}

#[test]
fn what_a_header_asks_for_counts_for_nothing() {
    use FaultKind::{BadSignature, Malformed, UnknownKey, WrongAlgorithm};
    let unsigned = format!("{}.{}.", base64(&json!({"alg": "none", "kid": "a"})), base64(&claims()));
    assert_eq!(oidc(&unsigned), Err(WrongAlgorithm));
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64URL_NOPAD.encode(key(9).verifying_key().as_bytes())});
    for (edits, seed, expected) in [
        (json!({"alg": "none"}), 1, WrongAlgorithm),
        (json!({"alg": "None"}), 1, WrongAlgorithm),
        (json!({"alg": "HS256"}), 1, WrongAlgorithm),
        (json!({"alg": "ES256"}), 1, WrongAlgorithm),
        (json!({"alg": "RS256"}), 1, WrongAlgorithm),
        (json!({"alg": "eddsa"}), 1, WrongAlgorithm),
        (json!({"alg": ["EdDSA"]}), 1, WrongAlgorithm),
        (json!({"alg": null}), 1, WrongAlgorithm),
        (json!({"kid": "b"}), 1, BadSignature),
        (json!({"kid": "s"}), 3, UnknownKey),
        (json!({"kid": "../a"}), 1, UnknownKey),
        (json!({"kid": 1}), 1, Malformed),
        (json!({"typ": "at+jwt"}), 1, Malformed),
        (json!({"typ": "logout+jwt"}), 1, Malformed),
        (json!({"crit": ["exp"]}), 1, Malformed),
        (json!({"crit": []}), 1, Malformed),
        (json!({"b64": false}), 1, Malformed),
        (json!({"jwk": jwk}), 9, Malformed),
        (json!({"jku": "https://evil.example/keys"}), 1, Malformed),
        (json!({"x5u": "https://evil.example/cert"}), 1, Malformed),
        (json!({"x5c": ["MII"]}), 1, Malformed),
        (json!({"cty": "JWT"}), 1, Malformed),
        (json!({"zip": "DEF"}), 1, Malformed),
    ] {
        let token = signed(&edited(header(), edits.clone()), &claims(), seed);
        assert_eq!(oidc(&token), Err(expected), "{edits}");
    }
    let mut nameless = header();
    nameless.as_object_mut().unwrap().remove("kid");
    assert_eq!(oidc(&signed(&nameless, &claims(), 1)), Err(UnknownKey), "it has several");
    // A public key is no shared secret: an HMAC over it, with any algorithm that the header says.
    let parts = format!("{}.{}", base64(&json!({"alg": "HS256", "kid": "a"})), base64(&claims()));
    let hmac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key(1).verifying_key().as_bytes());
    let tag = BASE64URL_NOPAD.encode(ring::hmac::sign(&hmac, parts.as_bytes()).as_ref());
    assert_eq!(oidc(&format!("{parts}.{tag}")), Err(WrongAlgorithm));
    let parts = format!("{}.{}", base64(&header()), base64(&claims()));
    let tag = BASE64URL_NOPAD.encode(ring::hmac::sign(&hmac, parts.as_bytes()).as_ref());
    assert_eq!(oidc(&format!("{parts}.{tag}")), Err(BadSignature));
}

#[test]
fn claims_are_what_they_must_be_or_the_document_is_none() {
    use FaultKind::{Malformed, UnknownIssuer, WrongAudience};
    for (edits, expected) in [
        (json!({"iss": "https://id.example/realms/ops/"}), UnknownIssuer),
        (json!({"iss": "HTTPS://id.example/realms/ops"}), UnknownIssuer),
        (json!({"iss": DOMAIN}), UnknownIssuer),
        (json!({"iss": "\u{1b}[2J"}), UnknownIssuer),
        (json!({"iss": null}), Malformed),
        (json!({"iss": [ISSUER]}), Malformed),
        (json!({"sub": ""}), Malformed),
        (json!({"sub": null}), Malformed),
        (json!({"sub": 7}), Malformed),
        (json!({"sub": "a\nb"}), Malformed),
        (json!({"sub": "a".repeat(256)}), Malformed),
        (json!({"aud": "other"}), WrongAudience),
        (json!({"aud": "HARDTACK"}), WrongAudience),
        (json!({"aud": "hardtack x"}), WrongAudience),
        (json!({"aud": []}), WrongAudience),
        (json!({"aud": ["other", "another"]}), WrongAudience),
        (json!({"aud": ["hardtack", 1]}), Malformed),
        (json!({"aud": {"hardtack": true}}), Malformed),
        (json!({"aud": null}), Malformed),
        (json!({"exp": null}), Malformed),
        (json!({"exp": "2000"}), Malformed),
        (json!({"exp": -1}), Malformed),
        (json!({"exp": 253_402_300_800_u64}), Malformed),
        (json!({"exp": u64::MAX}), Malformed),
        (json!({"exp": 1e300}), Malformed),
        (json!({"iat": null}), Malformed),
        (json!({"iat": true}), Malformed),
        (json!({"nbf": "soon"}), Malformed),
    ] {
        assert_eq!(oidc(&signed(&header(), &edited(claims(), edits.clone()), 1)), Err(expected), "{edits}");
    }
    for missing in ["iss", "sub", "aud", "exp", "iat"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(oidc(&signed(&header(), &claims, 1)), Err(Malformed), "without {missing}");
    }
    for sub in [
        "acme.example/pump",
        "spiffe://acme.example",
        "spiffe://acme.example/",
        "spiffe://acme.example/pump/",
        "spiffe://acme.example//pump",
        "spiffe://acme.example/../pump",
        "spiffe://acme.example/pump?x",
        "spiffe://acme.example/p%75mp",
        "spiffe://user@acme.example/pump",
        "spiffe://acme.example:1/pump",
        "spiffe:///pump",
        "SPIFFE://acme.example/pump",
    ] {
        let claims = json!({"sub": sub, "aud": "hardtack", "exp": 2000});
        assert_eq!(svid(&signed(&json!({"alg": "EdDSA", "kid": "s"}), &claims, 3)), Err(Malformed), "{sub}");
    }
    for sub in ["spiffe://ACME.example/pump", "spiffe://evil.example/pump", "spiffe://acme.example.evil/pump"] {
        let claims = json!({"sub": sub, "aud": "hardtack", "exp": 2000});
        let fault = svid(&signed(&json!({"alg": "EdDSA", "kid": "s"}), &claims, 3)).unwrap_err();
        assert!([Malformed, UnknownIssuer].contains(&fault), "{sub}: {fault:?}");
    }
}

#[test]
fn what_is_said_twice_or_is_no_token_is_refused() {
    use FaultKind::{Malformed, TooLarge};
    let good = signed(&header(), &claims(), 1);
    assert!(oidc(&good).is_ok());
    let twice = claims().to_string().replacen('{', r#"{"sub":"bob","#, 1);
    assert_eq!(oidc(&signed_text(&header().to_string(), &twice, 1)), Err(Malformed));
    let twice = header().to_string().replacen('{', r#"{"alg":"EdDSA","#, 1);
    assert_eq!(oidc(&signed_text(&twice, &claims().to_string(), 1)), Err(Malformed));
    let deep = format!(r#"{{"x":{}1{},{}"#, "[".repeat(2000), "]".repeat(2000), &claims().to_string()[1..]);
    assert_eq!(oidc(&signed_text(&header().to_string(), &deep, 1)), Err(Malformed));
    for text in ["[]", "null", "1", "", "{", "\"x\""] {
        assert_eq!(oidc(&signed_text(&header().to_string(), text, 1)), Err(Malformed), "{text}");
        assert_eq!(oidc(&signed_text(text, &claims().to_string(), 1)), Err(Malformed), "{text}");
    }
    let parts: Vec<&str> = good.split('.').collect();
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        parts[..2].join("."),
        format!("{good}."),
        format!("{good}.x.y"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        good.replace('.', ".."),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("{}.{}+.{}", parts[0], parts[1], parts[2]),
    ] {
        assert_eq!(oidc(&bad), Err(Malformed), "{bad:.60}");
    }
    let cut = format!("{}.{}.{}", parts[0], parts[1], &parts[2][..84]);
    assert_eq!(oidc(&cut), Err(FaultKind::BadSignature));
    let large = edited(claims(), json!({"groups": vec!["operators"; 1000]}));
    assert_eq!(oidc(&signed(&header(), &large, 1)), Err(TooLarge));
    let wide = edited(claims(), json!({"groups": vec![1; 600]}));
    assert_eq!(oidc(&signed(&header(), &wide, 1)), Err(Malformed));
    for (at, with) in [(0, 1), (1, 0), (2, 0)] {
        let mut moved = parts.clone();
        moved[at] = parts[with];
        assert!(oidc(&moved.join(".")).is_err());
    }
}

proptest! {
    #[test]
    fn no_change_of_a_document_says_anything_else(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let good = signed(&header(), &claims(), 1);
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(changed == good || oidc(&changed).is_err());
        }
    }

    #[test]
    fn whatever_is_no_document_is_refused(text in "[A-Za-z0-9_.-]{0,200}", set in "\\PC{0,200}") {
        prop_assert!(oidc(&text).is_err() && svid(&text).is_err());
        prop_assert!(read_key_set(set.as_bytes()).is_err());
    }
}

/// The P-256 key of RFC 7515, appendix A.3, and its token.
const RFC_KEY: (&str, &str) =
    ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
const RFC_TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

#[test]
fn a_key_set_gives_the_keys_that_can_check_documents() {
    let ed = BASE64URL_NOPAD.encode(key(1).verifying_key().as_bytes());
    let rsa = BASE64URL_NOPAD.encode(&[vec![0x80; 255], vec![1]].concat());
    let set = |keys: Value| read_key_set(json!({"keys": keys}).to_string().as_bytes());
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": ed, "kid": "ed", "use": "sig", "alg": "EdDSA"});
    let ec = json!({"kty": "EC", "crv": "P-256", "x": RFC_KEY.0, "y": RFC_KEY.1, "kid": "ec", "use": "jwt-svid"});
    let rs = json!({"kty": "RSA", "n": rsa, "e": "AQAB", "kid": "rs"});
    let found = set(json!([ed, ec, rs])).unwrap();
    let algorithms: Vec<_> = found.keys.iter().map(|key| (key.kid.as_str(), key.key.algorithm())).collect();
    assert_eq!(algorithms, [("ed", "EdDSA"), ("ec", "ES256"), ("rs", "RS256")]);
    let (message, signature) = RFC_TOKEN.rsplit_once('.').unwrap();
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    assert!(found.keys[1].key.verify(message.as_bytes(), &signature));
    assert!(!found.keys[1].key.verify(b"another", &signature));
    for (edits, what) in [
        (json!({"use": "enc"}), "it is for"),
        (json!({"use": "x509-svid"}), "it is for"),
        (json!({"alg": "ES512"}), "count"),
        (json!({"crv": "P-384"}), "neither"),
        (json!({"x": RFC_KEY.1}), "P-256"),
        (json!({"x": "!"}), "base64url"),
        (json!({"kid": ""}), "no kid"),
    ] {
        let found = set(json!([edited(ec.clone(), edits.clone()), ed])).unwrap();
        assert_eq!(found.keys.len(), 1);
        assert!(found.left_out[0].contains(what), "{edits}: {:?}", found.left_out);
    }
    for (edits, what) in [
        (json!({"n": BASE64URL_NOPAD.encode(&[0xff; 128])}), "2048"),
        (json!({"n": BASE64URL_NOPAD.encode(&[0xff; 1024])}), "4096"),
        (json!({"e": "Aw"}), "65537"),
    ] {
        assert!(set(json!([edited(rs.clone(), edits.clone()), ed])).unwrap().left_out[0].contains(what), "{edits}");
    }
    for (bad, what) in [
        (json!([]), "no key in it"),
        (json!([{"kty": "oct", "k": "c2VjcmV0"}]), "shared key"),
        (json!([ed, edited(ec.clone(), json!({"d": "c2VjcmV0"}))]), "private"),
        (json!({}), "no list"),
    ] {
        assert!(set(bad.clone()).unwrap_err().contains(what), "{bad}");
    }
    assert!(read_key_set(&vec![b' '; KEY_SET_BYTES_MAX + 1]).unwrap_err().contains("at most"));
}

#[test]
fn a_trust_bundle_names_issuers_within_bounds() {
    assert_eq!(check_issuers(&issuers()), Ok(()));
    type Edit = Box<dyn Fn(&mut Vec<IdentityIssuer>)>;
    let mut edits: Vec<(&str, Edit)> = Vec::new();
    for name in [
        "http://id.example",
        "https://",
        "https:///x",
        "https://id.example?x",
        "https://id.example/#x",
        "https://id .example",
        "id.example",
        "spiffe://",
        "spiffe://ACME",
        "spiffe://acme/pump",
        "",
    ] {
        edits.push((name, Box::new(move |issuers| issuers[0].name = name.into())));
    }
    edits.push(("twice", Box::new(|issuers| issuers[1].name = ISSUER.into())));
    edits.push((
        "many",
        Box::new(|issuers| {
            let more = (0..ISSUERS_MAX).map(|n| IdentityIssuer { name: format!("https://{n}"), ..issuers[0].clone() });
            issuers.extend(more.collect::<Vec<_>>());
        }),
    ));
    edits.push(("no audience", Box::new(|issuers| issuers[0].audiences.clear())));
    edits.push(("an audience twice", Box::new(|issuers| issuers[0].audiences[1] = "hardtack".into())));
    edits.push(("a bad audience", Box::new(|issuers| issuers[0].audiences[1] = "a\u{7f}".into())));
    edits.push(("no key", Box::new(|issuers| issuers[0].keys.clear())));
    edits.push(("a kid twice", Box::new(|issuers| issuers[0].keys[1].kid = "a".into())));
    edits.push((
        "many keys",
        Box::new(|issuers| {
            issuers[0].keys = (0..=KEYS_MAX).map(|n| named(&n.to_string(), 1)).collect();
        }),
    ));
    edits.push(("no point", Box::new(|issuers| issuers[0].keys[0].key = VerifyingKey::Es256(vec![4; 65]))));
    edits.push((
        "a small modulus",
        Box::new(|issuers| {
            issuers[0].keys[0].key = VerifyingKey::Rs256 { modulus: vec![0xff; 128], exponent: vec![1, 0, 1] };
        }),
    ));
    edits.push((
        "much",
        Box::new(|issuers| {
            let wide =
                |n: usize| VerifyingKey::Rs256 { modulus: vec![0xff; 512], exponent: vec![1, 0, n as u8 * 2 + 1] };
            for issuer in issuers.iter_mut() {
                issuer.keys = (0..KEYS_MAX).map(|n| IdentityKey { kid: n.to_string(), key: wide(n) }).collect();
            }
        }),
    ));
    for (what, edit) in edits {
        let mut changed = issuers();
        edit(&mut changed);
        assert!(check_issuers(&changed).is_err(), "{what}");
    }
}
