//! Percent-encoding (RFC 3986, section 2.1).
//!
//! Owns: one strict way to read it and one to write it.
//! Never: decodes twice; says which bytes may stand as they are.
//! Read next: `link.rs`, where rights are scope tokens.

use std::fmt::Write;

/// A text with all but these bytes encoded. A percent sign is encoded whatever is said of it.
pub fn encoded(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii() && byte != b'%' && plain(byte) {
            true => encoded.push(char::from(byte)),
            // Writing to a string cannot fail.
            false => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

/// A text decoded once. None where a percent sign has no two digits behind it, or what comes out is no UTF-8.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_encoded_is_decoded_to_what_it_was() {
        for text in ["", "a", "%", "%41", "größe", "a b\"\\\u{7f}\u{0}", "100 %", "\u{1F980}"] {
            for plain in [|_| true, |_| false, |byte: u8| byte.is_ascii_alphanumeric()] {
                assert_eq!(decoded(&encoded(text, plain)).as_deref(), Some(text));
            }
            assert!(encoded(text, |_| true).is_ascii());
        }
        assert_eq!(encoded("a:%ö", |byte| byte != b':'), "a%3A%25%C3%B6");
        assert_eq!(decoded("%c3%b6").as_deref(), Some("ö"));
        for broken in ["%", "%4", "%zz", "%+1", "%-1", "a%ff", "%c3"] {
            assert_eq!(decoded(broken), None, "{broken}");
        }
    }
}
