//! An entry: where a secret goes, for which requests, and how it is put into them.
//!
//! Owns: [`Entry`] with its text form, [`Upstream`], [`Rule`], [`Inject`], what a value may look like.
//! Never: holds a value that is open; [`Entry::statement`] is what it is sealed with, so that nobody gives it another upstream.
//! Read next: `../shell/secrets/vault.rs`, which keeps entries in files.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::time::Timestamp;
use crate::wire::seal::Sealed;
use crate::wire::token::canonical;

/// The form of an entry's file that this program writes.
pub const FORMAT: u32 = 1;
/// The fewest bytes of a value: a shorter one could not be told from the text around it.
pub const VALUE_BYTES_MIN: usize = 8;
/// The most bytes of a value.
pub const VALUE_BYTES_MAX: usize = 4096;
/// The most rules of an entry.
pub const RULES_MAX: usize = 64;
/// The most certificates of authorities of an entry.
pub const AUTHORITIES_MAX: usize = 4;
/// The most bytes of one of them.
pub const AUTHORITY_BYTES_MAX: usize = 8192;
/// The most bytes of a name.
const NAME_BYTES_MAX: usize = 64;
/// The most bytes of a header's text, of a user and of a parameter's name.
const TEXT_BYTES_MAX: usize = 256;
/// Where the value goes in a header.
const PLACE: &str = "{}";

/// Headers in which no secret belongs, or which this proxy sets or takes out itself.
const OTHER_HEADERS: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "hardtack-token",
    "host",
    "if-range",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why something is no entry.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    /// It names no secret.
    #[error("{0:?} is no name of a secret: small letters, digits and dashes, a letter first, 64 bytes at the most")]
    Name(String),
    /// It is no upstream.
    #[error("{given:?} is no upstream: {why}")]
    Upstream {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is no rule.
    #[error("{given:?} is no rule: {why}; a rule is METHOD:/path or METHOD:/path/*")]
    Rule {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It says no place for the value.
    #[error("{given:?} is no place for a secret: {why}")]
    Place {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The value cannot be used. It is not quoted.
    #[error("the value {0}")]
    Value(&'static str),
    /// The file is none, or of another program.
    #[error("{0}")]
    File(String),
}

/// The name of a secret, a segment of a path and of a resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SecretName(String);

impl SecretName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The resource that everything at its upstream is below of.
    pub fn resource(&self) -> String {
        format!("secret/{}", self.0)
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SecretName {
    type Err = EntryError;
    fn from_str(text: &str) -> Result<Self, EntryError> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        match begins && text.len() <= NAME_BYTES_MAX && text.bytes().all(known) {
            true => Ok(Self(text.to_owned())),
            false => Err(EntryError::Name(text.chars().take(NAME_BYTES_MAX).collect())),
        }
    }
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// HTTP in the clear: whoever is on the way sees the value.
    Http,
    /// HTTP over TLS.
    Https,
}

/// Where a secret goes, and nowhere else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// What is spoken.
    pub scheme: Scheme,
    /// A name in small letters, or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Upstream {
    const fn default_port(scheme: Scheme) -> u16 {
        match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// Host, and port where it is not the usual one: the `Host` of a request, and the destination that the agent is asked about.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port == Self::default_port(self.scheme) {
            true => host,
            false => format!("{host}:{}", self.port),
        }
    }

    /// Whether the value would cross more than this machine or its own network in the clear. A name may lead anywhere.
    pub fn is_exposed(&self) -> bool {
        let near = match self.host.parse() {
            Ok(std::net::IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            Ok(std::net::IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
            Err(_) => self.host == "localhost",
        };
        self.scheme == Scheme::Http && !near
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl FromStr for Upstream {
    type Err = EntryError;
    fn from_str(text: &str) -> Result<Self, EntryError> {
        let bad = |why| EntryError::Upstream { given: text.chars().take(300).collect(), why };
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(_) | None => return Err(bad("it begins with https:// or http://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(bad("it is a host and a port only: paths go into rules, values into the secret"));
        }
        let (host, port) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, port))) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
            Some(_) => return Err(bad("an IPv6 address stands in brackets: https://[2001:db8::1]:8443")),
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => port.is_empty().then_some(Self::default_port(scheme)),
        };
        let port = port.ok_or(bad("the port is a number from 1 to 65535"))?;
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || host.starts_with('.') || !host.chars().all(known) {
            return Err(bad("between :// and the port stands a host name or an IP address"));
        }
        Ok(Self { scheme, host: host.trim_end_matches('.').to_ascii_lowercase(), port })
    }
}

/// Requests that a secret goes into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    method: String,
    /// Without the slash that it begins with.
    path: String,
    reach: Reach,
}

/// How far a path of a rule reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// To everything below it.
    Below,
    /// To itself.
    Itself,
}

impl Rule {
    /// Whether it covers a request: the method as it was sent, the path decoded once, canonical, without the slash that it
    /// begins with.
    pub fn covers(&self, method: &str, path: &str) -> bool {
        let there = match self.reach {
            Reach::Itself => self.path == path,
            Reach::Below if self.path.is_empty() => !path.is_empty(),
            Reach::Below => path.strip_prefix(&self.path).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/')),
        };
        there && self.method == method
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, reach } = self;
        match reach {
            Reach::Itself => write!(f, "{method}:/{path}"),
            Reach::Below if path.is_empty() => write!(f, "{method}:/*"),
            Reach::Below => write!(f, "{method}:/{path}/*"),
        }
    }
}

impl FromStr for Rule {
    type Err = EntryError;
    fn from_str(text: &str) -> Result<Self, EntryError> {
        let bad = |why| EntryError::Rule { given: text.chars().take(300).collect(), why };
        let (method, path) = text.split_once(':').ok_or(bad("there is no colon"))?;
        if method.is_empty()
            || method.len() > 20
            || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
        {
            return Err(bad("the method has capital letters and dashes only"));
        }
        // Both tell the caller what was sent, or make a tunnel to somewhere.
        if ["CONNECT", "TRACE"].contains(&method) {
            return Err(bad("CONNECT and TRACE are never let through"));
        }
        let below = path.strip_prefix('/').ok_or(bad("the path begins with a slash"))?;
        let (path, reach) = match below {
            "*" => ("", Reach::Below),
            below => match below.strip_suffix("/*") {
                Some(path) => (path, Reach::Below),
                None => (below, Reach::Itself),
            },
        };
        let odd = |c: char| matches!(c, '"' | '?' | '#' | ';');
        if path.contains(odd) || !(path.is_empty() || canonical(path).is_ok()) {
            return Err(bad(
                "its segments are none of them empty, `.` or `..`, and hold no \" ? # ; % * or backslash, 256 bytes in all",
            ));
        }
        Ok(Self { method: method.into(), path: path.into(), reach })
    }
}

/// How the value is put into a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inject {
    /// `Authorization: Basic`, of this user and the value as the password.
    Basic {
        /// The user.
        user: String,
    },
    /// A header, with the value between two texts.
    Header {
        /// Its name in small letters.
        name: String,
        /// What stands before the value.
        before: String,
        /// What stands behind it.
        after: String,
    },
    /// A parameter of the query.
    Query {
        /// Its name.
        name: String,
    },
}

impl Inject {
    /// From a header's text, as `Authorization: Bearer {}`.
    ///
    /// # Errors
    /// [`EntryError::Place`].
    pub fn header(text: &str) -> Result<Self, EntryError> {
        let bad = |why| EntryError::Place { given: text.chars().take(TEXT_BYTES_MAX).collect(), why };
        let (name, value) = text.split_once(':').ok_or(bad("a header is `Name: text {}`"))?;
        let name = name.to_ascii_lowercase();
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(known) {
            return Err(bad("a header's name has letters, digits and dashes only"));
        }
        if OTHER_HEADERS.contains(&name.as_str()) {
            return Err(bad("this header is not for secrets"));
        }
        let (before, after) = value.split_once(PLACE).ok_or(bad("`{}` says where the value goes"))?;
        let before = before.strip_prefix(' ').unwrap_or(before);
        if after.contains(PLACE) {
            return Err(bad("`{}` stands there once"));
        }
        if text.len() > TEXT_BYTES_MAX || ![before, after].into_iter().all(plain) {
            return Err(bad("it is printable ASCII without quotes and backslashes, 256 bytes at the most"));
        }
        Ok(Self::Header { name, before: before.into(), after: after.into() })
    }

    /// As the password of a user.
    ///
    /// # Errors
    /// [`EntryError::Place`].
    pub fn basic(user: &str) -> Result<Self, EntryError> {
        match !user.is_empty() && user.len() <= TEXT_BYTES_MAX && plain(user) && !user.contains(':') {
            true => Ok(Self::Basic { user: user.into() }),
            false => Err(EntryError::Place {
                given: user.chars().take(TEXT_BYTES_MAX).collect(),
                why: "a user is printable ASCII without colons, quotes and backslashes, 256 bytes at the most",
            }),
        }
    }

    /// As a parameter of the query.
    ///
    /// # Errors
    /// [`EntryError::Place`].
    pub fn query(name: &str) -> Result<Self, EntryError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        match !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(known) {
            true => Ok(Self::Query { name: name.into() }),
            false => Err(EntryError::Place {
                given: name.chars().take(TEXT_BYTES_MAX).collect(),
                why: "a parameter's name has letters, digits, dashes, dots and underscores, 64 bytes at the most",
            }),
        }
    }

    /// The header with the value in it, if it is a header: its name, and what it says.
    pub fn header_with(&self, value: &[u8]) -> Option<(&str, Zeroizing<Vec<u8>>)> {
        match self {
            Self::Basic { user } => {
                let pair = Zeroizing::new([user.as_bytes(), b":", value].concat());
                let text = Zeroizing::new(BASE64.encode(&pair));
                Some(("authorization", Zeroizing::new([b"Basic ", text.as_bytes()].concat())))
            }
            Self::Header { name, before, after } => {
                Some((name, Zeroizing::new([before.as_bytes(), value, after.as_bytes()].concat())))
            }
            Self::Query { .. } => None,
        }
    }

    /// The query with the value in it, if it is a parameter: what the request said, and behind that the parameter.
    ///
    /// # Errors
    /// When the request has one of that name already.
    pub fn query_with(&self, query: Option<&str>, value: &[u8]) -> Result<Option<Zeroizing<String>>, &'static str> {
        let Self::Query { name } = self else { return Ok(None) };
        let said = query.unwrap_or_default();
        let twice = said.split(['&', ';']).any(|pair| {
            let given = pair.split('=').next().unwrap_or_default();
            // Some servers take a bracket for the begin of an index, and a space at the begin for nothing.
            let given = percent_decoded(given);
            let given = given.trim_start_matches([' ', '+']).split('[').next().unwrap_or_default().to_owned();
            given.eq_ignore_ascii_case(name)
        });
        if twice {
            return Err("the query has the parameter that the secret goes into");
        }
        let room = said.len() + name.len() + 3 * value.len() + 2;
        // Room for all of it at once: a text that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str(said);
        if !said.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for &byte in value {
            match byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                true => text.push(char::from(byte)),
                // Writing to a string cannot fail.
                false => drop(write!(text, "%{byte:02X}")),
            }
        }
        Ok(Some(text))
    }
}

impl fmt::Display for Inject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { user } => write!(f, "basic: {user}"),
            Self::Header { name, before, after } => write!(f, "header: {name}: {before}{PLACE}{after}"),
            Self::Query { name } => write!(f, "query: {name}"),
        }
    }
}

/// Printable, and what a quoted text of a file may hold as it is.
fn plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
}

/// Decoded once, as far as it can be: only compared with.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let escaped = (byte == b'%').then(|| digit(at + 1).zip(digit(at + 2))).flatten();
        match escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Where the value is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// In the service manager's folder of credentials, under the entry's name.
    Credential,
    /// Here, sealed to the key of the proxy's folder.
    Sealed(Sealed),
}

/// What a secret is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub name: SecretName,
    /// Where it goes.
    pub upstream: Upstream,
    /// Into which requests.
    pub rules: Vec<Rule>,
    /// How.
    pub inject: Inject,
    /// Certificates (DER) of the authorities that may sign the upstream's. None: those of the system.
    pub authorities: Vec<Vec<u8>>,
    /// Whether it may go in the clear over more than the network next to the machine.
    pub exposure: Exposure,
    /// When it was added.
    pub added: Timestamp,
    /// When it got the value that it has.
    pub valued: Timestamp,
}

/// Whether a value may travel in the clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposure {
    /// Whoever added it said so.
    Accepted,
    /// Only to this machine, or to a private address.
    Refused,
}

impl Entry {
    /// Whether it can be used as it is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), EntryError> {
        let bad = |why| EntryError::Upstream { given: self.upstream.to_string(), why };
        if self.upstream.is_exposed() && self.exposure == Exposure::Refused {
            return Err(bad("http:// would show the value to everybody on the way: use https://, or say --plain-http"));
        }
        if self.rules.is_empty() || self.rules.len() > RULES_MAX {
            return Err(EntryError::Rule { given: String::new(), why: "an entry has 1 to 64 of them" });
        }
        let fits = |der: &Vec<u8>| der.len() <= AUTHORITY_BYTES_MAX;
        if self.authorities.len() > AUTHORITIES_MAX || !self.authorities.iter().all(fits) {
            return Err(bad("an entry has 4 authorities at the most, with 8192 bytes each"));
        }
        Ok(())
    }

    /// What the value is sealed with: opened with other words it does not open.
    pub fn statement(&self) -> String {
        let rules: Vec<String> = self.rules.iter().map(|rule| format!("\"{rule}\"")).collect();
        let authorities: Vec<String> =
            self.authorities.iter().map(|der| format!("\"{}\"", BASE64URL_NOPAD.encode(der))).collect();
        let inject = match &self.inject {
            Inject::Basic { user } => format!("basic = \"{user}\""),
            Inject::Header { name, before, after } => format!("header = \"{name}: {before}{PLACE}{after}\""),
            Inject::Query { name } => format!("query = \"{name}\""),
        };
        let exposure = match self.exposure {
            Exposure::Accepted => "plain_http = true\n",
            Exposure::Refused => "",
        };
        format!(
            "format = {FORMAT}\nname = \"{}\"\nupstream = \"{}\"\nallow = [{}]\n{inject}\n{exposure}authorities = [{}]\n",
            self.name,
            self.upstream,
            rules.join(", "),
            authorities.join(", "),
        )
    }

    /// The text of its file.
    pub fn text(&self, kept: &Kept) -> String {
        let kept = match kept {
            Kept::Credential => "credential = true".to_owned(),
            // Bytes and a length: there is nothing that could not be written.
            Kept::Sealed(sealed) => {
                let bytes = postcard::to_allocvec(sealed).unwrap_or_default();
                format!("sealed = \"{}\"", BASE64URL_NOPAD.encode(&bytes))
            }
        };
        format!("{}added = {}\nvalued = {}\n{kept}\n", self.statement(), self.added.0, self.valued.0)
    }

    /// The entry of a file's text.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of the text is quoted but what its own fields say.
    pub fn parse(text: &str) -> Result<(Self, Kept), EntryError> {
        // The parser's own message would quote a line.
        let told: Text = toml::from_str(text).map_err(|error| EntryError::File(error.message().to_owned()))?;
        if told.format != FORMAT {
            let why = format!("it has format {}, this program reads format {FORMAT}", told.format);
            return Err(EntryError::File(why));
        }
        let inject = match (told.basic, told.header, told.query) {
            (Some(user), None, None) => Inject::basic(&user)?,
            (None, Some(text), None) => Inject::header(&text)?,
            (None, None, Some(name)) => Inject::query(&name)?,
            (None, None, None) | (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                return Err(EntryError::File("one of `basic`, `header` and `query` says where the value goes".into()))
            }
        };
        let kept = match (told.credential, told.sealed) {
            (true, None) => Kept::Credential,
            (false, Some(text)) => Kept::Sealed(sealed(&text)?),
            (true, Some(_)) | (false, None) => {
                return Err(EntryError::File("one of `credential = true` and `sealed` says where the value is".into()))
            }
        };
        let bytes = |text: &String| {
            BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| EntryError::File("an authority is no base64url".into()))
        };
        let entry = Self {
            name: told.name.parse()?,
            upstream: told.upstream.parse()?,
            rules: told.allow.iter().map(|rule| rule.parse()).collect::<Result<_, _>>()?,
            inject,
            authorities: told.authorities.iter().map(bytes).collect::<Result<_, _>>()?,
            exposure: if told.plain_http { Exposure::Accepted } else { Exposure::Refused },
            added: Timestamp(told.added),
            valued: Timestamp(told.valued),
        };
        entry.check()?;
        Ok((entry, kept))
    }
}

fn sealed(text: &str) -> Result<Sealed, EntryError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    let taken = bytes.as_deref().and_then(|bytes| postcard::take_from_bytes(bytes).ok());
    let whole = taken.filter(|(_, rest)| rest.is_empty()).map(|(sealed, _)| sealed);
    whole.ok_or_else(|| EntryError::File("`sealed` is not what this program seals".into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    name: String,
    upstream: String,
    allow: Vec<String>,
    basic: Option<String>,
    header: Option<String>,
    query: Option<String>,
    #[serde(default)]
    plain_http: bool,
    authorities: Vec<String>,
    added: u64,
    valued: u64,
    #[serde(default)]
    credential: bool,
    sealed: Option<String>,
}

/// What of these bytes is the value: all but one end of a line behind it.
///
/// # Errors
/// [`EntryError::Value`].
pub fn value_of(bytes: &[u8]) -> Result<&[u8], EntryError> {
    let value = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    let bad = |why| Err(EntryError::Value(why));
    if value.len() < VALUE_BYTES_MIN {
        return bad(
            "has fewer than 8 bytes: it could not be told from the text around it, where an upstream echoes it",
        );
    }
    if value.len() > VALUE_BYTES_MAX {
        return bad("has more than 4096 bytes");
    }
    if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) || value.starts_with(b" ") || value.ends_with(b" ") {
        return bad(
            "is not printable ASCII on one line, without a space at its begin and end: no header holds anything else",
        );
    }
    let first = value[0];
    if value.iter().all(|byte| *byte == first) {
        return bad("is one character over and over: it is no secret");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::wire::seal::SealingKey;

    fn entry() -> Entry {
        Entry {
            name: "crm".parse().unwrap(),
            upstream: "https://CRM.example".parse().unwrap(),
            rules: vec!["GET:/v1/orders/*".parse().unwrap(), "POST:/v1/orders".parse().unwrap()],
            inject: Inject::header("Authorization: Bearer {}").unwrap(),
            authorities: vec![vec![0x30, 0x82]],
            exposure: Exposure::Refused,
            added: Timestamp(1000),
            valued: Timestamp(2000),
        }
    }

    fn sealed() -> Kept {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let key = SealingKey::generate(&mut rng);
        Kept::Sealed(Sealed::seal(b"hunter2hunter2", &key.public(), "p", b"c", &mut rng).unwrap())
    }

    #[test]
    fn a_rule_covers_its_method_and_its_path_and_nothing_else() {
        let table: &[(&str, &str, &str, bool)] = &[
            ("GET:/v1/orders", "GET", "v1/orders", true),
            ("GET:/v1/orders", "GET", "v1/orders/7", false),
            ("GET:/v1/orders", "HEAD", "v1/orders", false),
            ("GET:/v1/orders", "get", "v1/orders", false),
            ("GET:/v1/orders", "GET", "V1/orders", false),
            ("GET:/v1/orders/*", "GET", "v1/orders/7/lines", true),
            ("GET:/v1/orders/*", "GET", "v1/orders", false),
            ("GET:/v1/orders/*", "GET", "v1/orders/", false),
            ("GET:/v1/orders/*", "GET", "v1/orders-of-others/7", false),
            ("GET:/", "GET", "", true),
            ("GET:/", "GET", "a", false),
            ("GET:/*", "GET", "a/b", true),
            ("GET:/*", "GET", "", false),
            ("M-SEARCH:/a", "M-SEARCH", "a", true),
        ];
        for (rule, method, path, covered) in table {
            let rule: Rule = rule.parse().unwrap();
            assert_eq!(rule.covers(method, path), *covered, "{rule} {method} {path}");
            assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }
        for bad in [
            "",
            "GET",
            "GET:",
            "GET:a",
            "get:/a",
            ":/a",
            "GET:/a//b",
            "GET:/a/../b",
            "GET:/.",
            "GET:/a/",
            "GET:/a*",
            "GET:/*/a",
            "GET:/a%2fb",
            "GET:/a\\b",
            "GET:/a?b",
            "GET:/a;b",
            "GET:/a\"b",
            "GET:/a\nb",
            "TRACE:/a",
            "CONNECT:/*",
            "G T:/a",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_upstream_is_a_host_and_a_port() {
        for (text, shown, exposed) in [
            ("https://CRM.example", "https://crm.example", false),
            ("https://crm.example:8443/", "https://crm.example:8443", false),
            ("https://crm.example:443", "https://crm.example", false),
            ("http://crm.example", "http://crm.example", true),
            ("http://10.0.0.7:8080", "http://10.0.0.7:8080", false),
            ("http://8.8.8.8", "http://8.8.8.8", true),
            ("http://[::1]:80", "http://[::1]", false),
            ("http://localhost:1", "http://localhost:1", false),
        ] {
            let upstream: Upstream = text.parse().unwrap();
            assert_eq!((upstream.to_string().as_str(), upstream.is_exposed()), (shown, exposed), "{text}");
            assert_eq!(upstream.to_string().parse::<Upstream>().unwrap(), upstream);
        }
        for bad in [
            "",
            "crm",
            "ftp://a",
            "https://",
            "https://:1",
            "https://a:0",
            "https://a:70000",
            "https://a/b",
            "https://u:p@a",
            "https://a?b",
            "https://a#b",
            "https://[::1",
            "https://a b",
            "https://\u{e9}",
            "https://.a",
            "https://::1",
        ] {
            assert!(bad.parse::<Upstream>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_value_goes_where_the_entry_says() {
        let header = |text: &str| {
            let inject = Inject::header(text).unwrap();
            let (name, value) = inject.header_with(b"s3cret-value").unwrap();
            format!("{name}: {}", std::str::from_utf8(&value).unwrap())
        };
        assert_eq!(header("Authorization: Bearer {}"), "authorization: Bearer s3cret-value");
        assert_eq!(header("X-Api-Key:{}"), "x-api-key: s3cret-value");
        assert_eq!(header("Authorization: Token token={}, v=1"), "authorization: Token token=s3cret-value, v=1");
        let basic = Inject::basic("svc").unwrap();
        assert_eq!(basic.header_with(b"s3cret").unwrap().1.as_slice(), b"Basic c3ZjOnMzY3JldA==");
        assert_eq!(basic.query_with(Some("a=b"), b"s3cret").unwrap(), None);

        let query = Inject::query("key").unwrap();
        assert!(query.header_with(b"s3cret").is_none());
        let with = |said: Option<&str>| query.query_with(said, b"a&b /+").map(|text| text.unwrap().to_string());
        assert_eq!(with(None).unwrap(), "key=a%26b%20%2F%2B");
        assert_eq!(with(Some("x=1")).unwrap(), "x=1&key=a%26b%20%2F%2B");
        assert_eq!(with(Some("monkey=1")).unwrap(), "monkey=1&key=a%26b%20%2F%2B");
        for twice in ["key=1", "a=b&key=1", "key", "%6bey=1", "KEY=1", "key[]=1", "a;key=1", "+key=1", "key%5B0%5D=1"] {
            assert!(with(Some(twice)).is_err(), "{twice}");
        }

        for bad in [
            "",
            "Authorization",
            "Authorization: Bearer",
            "Authorization: {} {}",
            "Host: {}",
            "Content-Length: {}",
            "Transfer-Encoding: {}",
            "Connection: {}",
            "Hardtack-Token: {}",
            "Range: {}",
            "a b: {}",
            ": {}",
            "A_b: {}",
            "A: {}\r\nB: c",
            "A: \"{}\"",
            "A: \u{e9}{}",
        ] {
            assert!(Inject::header(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a:b", "a\nb", "\"a\""] {
            assert!(Inject::basic(bad).is_err() && Inject::query(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_entry_comes_back_from_its_text() {
        let injects =
            [Inject::header("X-Api-Key: {}").unwrap(), Inject::basic("svc").unwrap(), Inject::query("key").unwrap()];
        for inject in injects {
            for kept in [Kept::Credential, sealed()] {
                let entry = Entry { inject: inject.clone(), ..entry() };
                assert_eq!(Entry::parse(&entry.text(&kept)).unwrap(), (entry, kept));
            }
        }
        let plain = Entry { upstream: "http://crm.example".parse().unwrap(), exposure: Exposure::Accepted, ..entry() };
        assert_eq!(Entry::parse(&plain.text(&Kept::Credential)).unwrap().0, plain);
    }

    #[test]
    fn every_word_of_an_entry_is_in_what_its_value_is_sealed_with() {
        let changed: [fn(&mut Entry); 6] = [
            |entry| entry.name = "crn".parse().unwrap(),
            |entry| entry.upstream = "https://evil.example".parse().unwrap(),
            |entry| drop(entry.rules.pop()),
            |entry| entry.inject = Inject::query("key").unwrap(),
            |entry| entry.authorities.clear(),
            |entry| entry.exposure = Exposure::Accepted,
        ];
        for (number, change) in changed.into_iter().enumerate() {
            let mut other = entry();
            change(&mut other);
            assert_ne!(other.statement(), entry().statement(), "{number}");
        }
    }

    #[test]
    fn a_file_that_is_none_is_refused_with_a_reason() {
        let text = entry().text(&sealed());
        for (from, to, why) in [
            ("format = 1", "format = 2", "format 2"),
            ("name = \"crm\"", "name = \"../crm\"", "no name of a secret"),
            ("https://", "http://", "--plain-http"),
            ("GET:", "get:", "no rule"),
            ("header", "heder", "unknown field"),
            ("header = ", "query = \"a\"\nheader = ", "one of `basic`"),
            ("sealed = \"", "sealed = \"AAAA", "`sealed`"),
            ("sealed = ", "credential = true\nsealed = ", "one of `credential"),
            ("authorities = [\"", "authorities = [\"*", "base64url"),
            ("added = 1000", "added = -1", "invalid value"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = Entry::parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(why), "{from} {to}: {error}");
        }
        assert!(Entry::parse("").is_err() && Entry::parse("\0").is_err());
        for cut in 1..text.len() {
            assert!(Entry::parse(&text[..cut]).is_err() || cut + 2 > text.len(), "{cut}");
        }
    }

    #[test]
    fn a_value_is_one_line_of_what_a_header_may_hold() {
        assert_eq!(value_of(b"s3cret-value\n"), Ok(&b"s3cret-value"[..]));
        assert_eq!(value_of(b"s3cret value\r\n"), Ok(&b"s3cret value"[..]));
        for bad in [
            &b""[..],
            b"\n",
            b"short",
            b"a\nbcdefghi",
            b" leading1",
            b"trailing ",
            b"caf\xc3\xa9-au-lait",
            b"12345678\n\n",
            b"aaaaaaaaaaaa",
        ] {
            let error = value_of(bad).unwrap_err().to_string();
            assert!(!error.contains("leading1") && error.starts_with("the value "), "{error}");
        }
        assert!(value_of(&[b'x'; VALUE_BYTES_MAX + 1]).is_err());
    }
}
