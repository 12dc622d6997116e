//! Where a broker is: `mqtts://host:port` or `mqtt://host:port`.
//!
//! Owns: [`BrokerUrl`] and its text form.
//! Never: resolves a name or opens a connection.
//! Read next: `mod.rs`.

use std::fmt;
use std::str::FromStr;

/// A broker's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerUrl {
    /// Whether the link is encrypted.
    pub security: Security,
    /// Host name or address, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What protects a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// `mqtt://`: nothing. For tests and the demo on the loopback interface.
    Plain,
    /// `mqtts://`: TLS with a client certificate.
    Tls,
}

/// Why a text names no broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no broker: write mqtts://HOST:PORT, or mqtt://HOST:PORT where nothing protects the link")]
pub struct InvalidUrl {
    /// The text, shortened.
    pub text: String,
}

impl FromStr for BrokerUrl {
    type Err = InvalidUrl;
    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        parse(text).ok_or_else(|| InvalidUrl { text: text.chars().take(200).collect() })
    }
}

fn parse(text: &str) -> Option<BrokerUrl> {
    let (scheme, rest) = text.split_once("://")?;
    let (security, default_port) = match scheme {
        "mqtt" => (Security::Plain, 1883),
        "mqtts" => (Security::Tls, 8883),
        _ => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, after.strip_prefix(':').or_else(|| after.is_empty().then_some(""))?)
        }
        None => rest.split_once(':').unwrap_or((rest, "")),
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || host.len() > 253 || !host.chars().all(is_host) {
        return None;
    }
    let port = if port.is_empty() { default_port } else { port.parse().ok().filter(|port| *port != 0)? };
    Some(BrokerUrl { security, host: host.to_owned(), port })
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.security {
            Security::Plain => "mqtt",
            Security::Tls => "mqtts",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        check("mqtts://broker.example:8884", Some("mqtts://broker.example:8884"));
        check("mqtts://broker.example", Some("mqtts://broker.example:8883"));
        check("mqtt://127.0.0.1", Some("mqtt://127.0.0.1:1883"));
        check("mqtts://[::1]:8883", Some("mqtts://[::1]:8883"));
        check("mqtts://[::1]/", Some("mqtts://[::1]:8883"));
        for bad in [
            "",
            "broker",
            "http://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://a:0",
            "mqtt://a:65536",
            "mqtt://a:1:2",
            "mqtt://user@a:1",
            "mqtt://[::1",
            "mqtt://[broker]:1",
            "mqtt://[::1]x",
            "mqtt://a/b",
        ] {
            check(bad, None);
        }
    }

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(text.parse::<BrokerUrl>().ok().map(|url| url.to_string()).as_deref(), expected, "{text:?}");
    }
}
