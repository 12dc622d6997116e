//! Finding a secret in what an upstream answers, as it comes.
//!
//! Owns: [`Echo`]: a stream of bytes in, the same stream out, of the same length, with stars where the secret was.
//! Never: holds back more than may be the begin of a secret; finds what is not one of the spellings below.
//! Read next: `../shell/secrets/flow.rs`, which puts it into an answer's body.
//!
//! A secret is found as it is, in base64 (both alphabets, wherever in a longer text it begins), in hexadecimal and in UTF-16.
//! Each character of those may be spelled as itself, percent-encoded once or twice, escaped as JSON and JavaScript do, or as
//! HTML and XML do, in any mixture.

use data_encoding::{BASE64, BASE64URL, HEXLOWER};
use zeroize::Zeroizing;

/// What stands where a secret was.
const STAR: u8 = b'*';

/// How much letters count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    /// A capital is another letter.
    Exact,
    /// It is the same.
    Folded,
}

/// One form of a secret, before its characters are spelled.
struct Form {
    bytes: Zeroizing<Vec<u8>>,
    case: Case,
}

/// What there is at a place of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Met {
    /// Nothing of a secret.
    Nothing,
    /// So many bytes that may become one.
    Part,
    /// A secret of so many bytes.
    Whole(usize),
}

/// Takes a secret out of a stream.
pub struct Echo {
    forms: Vec<Form>,
    /// Whether a byte can be the first of one.
    begins: [bool; 256],
    /// What was not given out yet: it may be the begin of one.
    held: Zeroizing<Vec<u8>>,
    found: u64,
}

impl std::fmt::Debug for Echo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Echo").field("found", &self.found).finish_non_exhaustive()
    }
}

impl Echo {
    /// Of this secret.
    pub fn of(secret: &[u8]) -> Self {
        let exact = |bytes| Form { bytes: Zeroizing::new(bytes), case: Case::Exact };
        let mut forms = vec![exact(secret.to_vec())];
        for before in 0..3 {
            forms.extend([BASE64, BASE64URL].map(|alphabet| exact(within_base64(&alphabet, secret, before))));
        }
        forms.push(Form { bytes: Zeroizing::new(HEXLOWER.encode(secret).into_bytes()), case: Case::Folded });
        let wide = |order: fn(u8) -> [u8; 2]| exact(secret.iter().flat_map(|byte| order(*byte)).collect());
        forms.extend([wide(|byte| [byte, 0]), wide(|byte| [0, byte])]);
        // The second alphabet often says the same.
        forms.dedup_by(|one, other| one.bytes == other.bytes);
        let mut begins = [false; 256];
        for form in &forms {
            if let Some(&first) = form.bytes.first() {
                for byte in [first, first.to_ascii_lowercase(), first.to_ascii_uppercase()] {
                    begins[usize::from(byte)] = true;
                }
                begins[usize::from(b'+')] |= first == b' ';
            }
        }
        for escape in [b'%', b'\\', b'&'] {
            begins[usize::from(escape)] = true;
        }
        Self { forms, begins, held: Zeroizing::default(), found: 0 }
    }

    /// Takes the next bytes, and gives those that are known to hold no secret, or held one.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.sift(Met::Part)
    }

    /// Nothing more comes: gives what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        self.sift(Met::Nothing)
    }

    /// How often it was there.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Whether all that came was given.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All of a text at once.
    pub fn whole(secret: &[u8], text: &[u8]) -> (Vec<u8>, u64) {
        let mut echo = Self::of(secret);
        let mut given = echo.push(text);
        given.extend(echo.finish());
        (given, echo.found)
    }

    /// Gives what is held as far as it is clear; `cut` is what a begin at its end counts as.
    fn sift(&mut self, cut: Met) -> Vec<u8> {
        let mut at = 0;
        while at < self.held.len() {
            let met = match self.met(at) {
                Met::Part => cut,
                met @ (Met::Nothing | Met::Whole(_)) => met,
            };
            match met {
                Met::Nothing => at += 1,
                Met::Part => break,
                Met::Whole(length) => {
                    self.held[at..at + length].fill(STAR);
                    self.found += 1;
                    at += length;
                }
            }
        }
        self.held.drain(..at).collect()
    }

    fn met(&self, at: usize) -> Met {
        let text = &self.held[at..];
        if !text.first().is_some_and(|first| self.begins[usize::from(*first)]) {
            return Met::Nothing;
        }
        let mut met = Met::Nothing;
        for form in &self.forms {
            met = match (met, form.met(text)) {
                (Met::Whole(one), Met::Whole(other)) => Met::Whole(one.max(other)),
                (Met::Whole(length), Met::Nothing | Met::Part) | (Met::Nothing | Met::Part, Met::Whole(length)) => {
                    Met::Whole(length)
                }
                (Met::Part, Met::Nothing | Met::Part) | (Met::Nothing, Met::Part) => Met::Part,
                (Met::Nothing, Met::Nothing) => Met::Nothing,
            };
        }
        met
    }
}

impl Form {
    /// Whether a text begins with it, however it is spelled. Where a character can be read in two ways, both are followed.
    fn met(&self, text: &[u8]) -> Met {
        let (mut ends, mut is_cut) = (vec![0usize], false);
        for &wanted in self.bytes.iter() {
            let mut next = Vec::with_capacity(ends.len());
            for &end in &ends {
                spelled(&text[end..], wanted, self.case, |met| match met {
                    Met::Nothing => {}
                    Met::Part => is_cut = true,
                    Met::Whole(length) => next.push(end + length),
                });
            }
            next.sort_unstable();
            next.dedup();
            if next.is_empty() {
                return if is_cut { Met::Part } else { Met::Nothing };
            }
            ends = next;
        }
        ends.last().map_or(Met::Nothing, |end| Met::Whole(*end))
    }
}

/// The part of a base64 text that is the same whatever stands around the secret, where so many bytes stand before it.
fn within_base64(alphabet: &data_encoding::Encoding, secret: &[u8], before: usize) -> Vec<u8> {
    let padded = Zeroizing::new([&[0; 3][..before], secret].concat());
    let text = Zeroizing::new(alphabet.encode(&padded));
    let (from, to) = ((8 * before).div_ceil(6), 8 * padded.len() / 6);
    text.as_bytes()[from..to].to_vec()
}

/// Tells of each way in which a text may begin with a character.
fn spelled(text: &[u8], wanted: u8, case: Case, mut tell: impl FnMut(Met)) {
    let Some(&first) = text.first() else { return tell(Met::Part) };
    let is_same = match case {
        Case::Exact => first == wanted,
        Case::Folded => first.eq_ignore_ascii_case(&wanted),
    };
    if is_same {
        tell(Met::Whole(1));
    }
    let code = u32::from(wanted);
    // A folded form has digits and small letters only; either letter of it may be spelled.
    let codes = [code, u32::from(wanted.to_ascii_uppercase())];
    let codes = match case {
        Case::Exact => &codes[..1],
        Case::Folded => &codes[..],
    };
    let mut say = |spelling: &str| tell(begins_with(text, spelling.as_bytes()));
    match first {
        b'%' => codes.iter().for_each(|code| {
            say(&format!("%{code:02x}"));
            say(&format!("%25{code:02x}"));
        }),
        b'\\' => {
            for code in codes {
                say(&format!("\\u{code:04x}"));
                say(&format!("\\u{{{code:x}}}"));
                say(&format!("\\x{code:02x}"));
                say(&format!("\\\\u{code:04x}"));
            }
            if wanted.is_ascii_punctuation() {
                say(&format!("\\{}", char::from(wanted)));
                // Escaped once more, as JSON in JSON is.
                say(&format!("\\\\\\{}", char::from(wanted)));
            }
        }
        b'&' => {
            for code in codes {
                for spelling in
                    [format!("&#{code};"), format!("&#0{code};"), format!("&#x{code:x};"), format!("&#x{code:04x};")]
                {
                    say(&spelling);
                }
            }
            let named: &[&str] = match wanted {
                b'&' => &["&amp;"],
                b'<' => &["&lt;"],
                b'>' => &["&gt;"],
                b'"' => &["&quot;"],
                b'\'' => &["&apos;"],
                b'/' => &["&sol;"],
                b'+' => &["&plus;"],
                b'=' => &["&equals;"],
                _ => &[],
            };
            named.iter().for_each(|spelling| say(spelling));
        }
        b'+' if wanted == b' ' => tell(Met::Whole(1)),
        _ => {}
    }
}

/// Whether a text begins with a spelling: the letters of an escape have no case.
fn begins_with(text: &[u8], spelling: &[u8]) -> Met {
    let length = text.len().min(spelling.len());
    match (text[..length].eq_ignore_ascii_case(&spelling[..length]), length == spelling.len()) {
        (false, _) => Met::Nothing,
        (true, false) => Met::Part,
        (true, true) => Met::Whole(length),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXUPPER;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "sk/live+4f=9~Zq\"&x";

    /// Sends a text in pieces of so many bytes, and gives what comes out.
    fn in_pieces(secret: &str, text: &[u8], size: usize) -> (Vec<u8>, u64) {
        let mut echo = Echo::of(secret.as_bytes());
        let mut given: Vec<u8> = text.chunks(size).flat_map(|piece| echo.push(piece)).collect();
        given.extend(echo.finish());
        assert!(echo.is_empty());
        (given, echo.found())
    }

    #[track_caller]
    fn check_found(spelling: &[u8]) {
        let text = [b"{\"key\": \"", spelling, b"\", \"more\": 1}"].concat();
        for size in [1, 2, 3, 7, text.len()] {
            let (given, found) = in_pieces(SECRET, &text, size);
            assert_eq!(given.len(), text.len());
            assert_eq!(found, 1, "{} in pieces of {size}", String::from_utf8_lossy(spelling));
            assert!(given.ends_with(b"\", \"more\": 1}"), "{}", String::from_utf8_lossy(&given));
            assert!(given.starts_with(b"{\"key\": \"*"), "{}", String::from_utf8_lossy(&given));
            assert!(given.windows(4).any(|window| window == b"****"));
        }
    }

    #[test]
    fn a_secret_is_found_however_it_is_spelled() {
        let secret = SECRET.as_bytes();
        let each = |spell: fn(u8) -> String| secret.iter().map(|byte| spell(*byte)).collect::<String>();
        check_found(secret);
        check_found(each(|byte| format!("%{byte:02x}")).as_bytes());
        check_found(each(|byte| format!("%{byte:02X}")).as_bytes());
        check_found(each(|byte| format!("%25{byte:02X}")).as_bytes());
        check_found(each(|byte| format!("\\u{byte:04x}")).as_bytes());
        check_found(each(|byte| format!("\\u{byte:04X}")).as_bytes());
        check_found(each(|byte| format!("\\x{byte:02x}")).as_bytes());
        check_found(each(|byte| format!("&#{byte};")).as_bytes());
        check_found(each(|byte| format!("&#x{byte:X};")).as_bytes());
        check_found(HEXLOWER.encode(secret).as_bytes());
        check_found(HEXUPPER.encode(secret).as_bytes());
        // As encoders leave it: some characters as they are, some not.
        check_found(b"sk%2Flive%2b4f%3D9~Zq%22%26x");
        check_found(b"sk\\/live+4f=9~Zq\\\"&x");
        check_found(b"sk\\/live\\u002b4f\\u003d9~Zq\\\"\\u0026x");
        check_found(b"sk/live+4f=9~Zq&quot;&amp;x");
        check_found(b"sk&#x2F;live+4f&equals;9~Zq&#34;&amp;x");
        check_found(b"sk\\\\\\/live+4f=9~Zq\\\\\\\"&x");
        let wide = |order: fn(u8) -> [u8; 2]| secret.iter().flat_map(|byte| order(*byte)).collect::<Vec<u8>>();
        check_found(&wide(|byte| [0, byte]));
    }

    #[test]
    fn a_secret_is_found_in_base64_wherever_it_begins() {
        for alphabet in [BASE64, BASE64URL] {
            for before in ["", "u", "us", "svc:", "https://user:"] {
                for behind in ["", "1", "12", "123"] {
                    let text = alphabet.encode(format!("{before}{SECRET}{behind}").as_bytes());
                    for size in [1, 5, text.len()] {
                        let (given, found) = in_pieces(SECRET, text.as_bytes(), size);
                        assert_eq!((found, given.len()), (1, text.len()), "{before} {behind}");
                    }
                    let escaped = text.replace('/', "\\/").replace('+', "%2b");
                    assert_eq!(in_pieces(SECRET, escaped.as_bytes(), 3).1, 1, "{escaped}");
                }
            }
        }
    }

    #[test]
    fn what_only_begins_like_it_goes_through_unchanged() {
        for text in [
            "",
            "s",
            "sk/live+4f=9~Zq\"&",
            "sk/live+4f=9~Zq\"&y",
            "SK/LIVE+4F=9~ZQ\"&X",
            "%73%6b%2",
            "\\u0073\\u006b\\u",
            "&#115;&",
            "sk/live sk/live+4f=9~Zq",
            "%%%\\\\\\&&&",
        ] {
            for size in [1, 3, 64] {
                assert_eq!(in_pieces(SECRET, text.as_bytes(), size), (text.as_bytes().to_vec(), 0), "{text}");
            }
        }
    }

    #[test]
    fn a_secret_behind_its_own_begin_is_found() {
        let secret = "ababab-ababac";
        let (given, found) = in_pieces(secret, b"abababab-ababac-ababab-ababacababab-ababac", 1);
        assert_eq!(String::from_utf8(given).unwrap(), format!("ab{0}-{0}{0}", "*".repeat(13)));
        assert_eq!(found, 3);
        // A percent sign of the secret's own can be read in two ways.
        assert_eq!(in_pieces("100%25%pure", b"100%25%pure 100%2525%25pure", 2).1, 2);
    }

    #[test]
    fn nothing_is_held_that_cannot_become_a_secret() {
        let mut echo = Echo::of(SECRET.as_bytes());
        assert_eq!(echo.push(b"data: reading\n\n"), b"data: reading\n\n");
        assert_eq!(echo.push(b"data: sk/li"), b"data: ");
        assert_eq!(echo.push(b"on\n\n"), b"sk/lion\n\n");
        assert_eq!(format!("{echo:?}"), "Echo { found: 0, .. }");
    }

    proptest! {
        #[test]
        fn cutting_a_stream_changes_nothing(text in "[sk/live+4f=9~Zq\"&x%2\\\\u0]{0,60}", size in 1usize..9) {
            let text = format!("{text}{SECRET}{text}");
            let whole = in_pieces(SECRET, text.as_bytes(), text.len());
            prop_assert_eq!(&in_pieces(SECRET, text.as_bytes(), size), &whole);
            prop_assert!(whole.1 >= 1);
            prop_assert!(!String::from_utf8_lossy(&whole.0).contains(SECRET));
        }
    }
}
