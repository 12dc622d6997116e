//! The agent's configuration: text, environment and flags to checked types.
//!
//! Owns: [`Config`], where each value comes from (flag, then environment, then file, then default), the names of the
//! environment variables, the default folders.
//! Never: reads a file, a variable or the user's id itself: [`Sources`] brings them. Guesses what an unknown key meant.
//! Read next: `profile.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::profile::{parse_text, shipped, Kind, Overlay, Profile, ProfileError, TextError, SHIPPED};

/// What the agent runs with.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The state folder.
    pub state_dir: PathBuf,
    /// The folder of the sockets.
    pub run_dir: PathBuf,
    /// The device's limits, its link overlay merged in.
    pub profile: Profile,
    /// How to reach the broker where the trust bundle is not to say so.
    pub broker: BrokerConfig,
    /// The log.
    pub log: LogConfig,
    /// What is read of callers.
    pub attest: AttestConfig,
    /// Enforcement points that come in by TCP.
    pub pep: PepConfig,
    /// Whose the sockets are.
    pub sockets: SocketsConfig,
}

/// The groups that may open the sockets which are not everybody's, by name or number. The agent's own where none is named.
/// The agent must be in them, or be root.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketsConfig {
    /// Of `pep.sock`: enforcement points.
    pub pep_group: Option<String>,
    /// Of `admin.sock`: operators of this gateway.
    pub admin_group: Option<String>,
}

/// Enforcement points that speak no unix socket. Nothing listens where nothing is configured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PepConfig {
    /// Addresses on loopback, at most [`PepConfig::LISTEN_MAX`].
    pub listen: Vec<SocketAddr>,
    /// The users whose connections are served there: at least one where there is an address.
    pub users: Vec<u32>,
}

impl PepConfig {
    /// The most addresses.
    pub const LISTEN_MAX: usize = 8;
}

/// What is read of callers besides what costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttestConfig {
    /// Whether programs are told by the SHA-256 of their files. It reads the whole file of each, once, and needs what
    /// reading another user's `/proc/PID/exe` needs: CAP_SYS_PTRACE.
    pub sha256: bool,
}

/// How to reach the broker. Whatever is absent, the trust bundle and the enrolment say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BrokerConfig {
    /// Addresses, tried in order.
    pub urls: Vec<BrokerUrl>,
    /// Certificates (PEM) of the authorities that sign the broker's certificate.
    pub ca: Option<PathBuf>,
    /// The client certificate (PEM) and its private key (PEM).
    pub client: Option<ClientCertificate>,
}

/// A client certificate with its key. One without the other is of no use, so they come together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificate {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The private key's file.
    pub key: PathBuf,
}

/// A broker's address: `mqtts://host[:8883]` or `mqtt://host[:1883]`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct BrokerUrl {
    /// Whether TLS is spoken.
    pub scheme: Scheme,
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What is spoken to the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS.
    Mqtts,
}

/// The log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// The least important level that is written.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// How important a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something needs a look.
    Warn,
    /// What happens in normal running.
    Info,
    /// For who looks for a fault.
    Debug,
    /// Everything.
    Trace,
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person.
    Text,
}

/// What the command line said. Empty where it said nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--run-dir`.
    pub run_dir: Option<PathBuf>,
    /// `--profile`: a shipped class's name, or a path.
    pub profile: Option<String>,
    /// `--overlay`: a shipped overlay's name, or a path.
    pub overlay: Option<String>,
    /// `--broker`, once for each address.
    pub broker: Vec<String>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
}

/// Who runs the agent, which decides the default folders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum User {
    /// The system's folders.
    Root,
    /// The user's own folders.
    Ordinary,
}

/// All that a configuration is made of.
pub struct Sources {
    /// The command line.
    pub flags: Flags,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Who asks.
    pub user: User,
    /// Reads a text file, at most [`crate::profile::TEXT_BYTES_MAX`] and one bytes of it.
    pub read: fn(&Path) -> io::Result<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither a flag nor the environment says where.
    #[error("no {what} folder: HOME is not set; pass {flag}")]
    NoFolder {
        /// Which folder.
        what: &'static str,
        /// The flag that names it.
        flag: &'static str,
    },
    /// A name that no shipped profile has.
    #[error("{origin}: there is no {kind} {name:?}; shipped are {known}; a file's path holds a `/` or ends in .toml")]
    NoSuchProfile {
        /// Where the name was found.
        origin: String,
        /// `profile` or `overlay`.
        kind: &'static str,
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A profile's text or numbers.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The configuration's text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file cannot be read.
    #[error("cannot read {}: {reason}; name another with {flag}, or put it there", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
        /// The flag that names such a file.
        flag: &'static str,
    },
    /// A value that the key cannot have.
    #[error("{origin}: {value:?} is not possible: {why}")]
    Value {
        /// Where the value was found.
        origin: String,
        /// The value.
        value: String,
        /// What it may be.
        why: String,
    },
}

/// `agent.toml`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    profile: Option<String>,
    overlay: Option<String>,
    #[serde(default)]
    broker: BrokerTable,
    #[serde(default)]
    log: LogTable,
    #[serde(default)]
    attest: AttestTable,
    #[serde(default)]
    pep: PepTable,
    #[serde(default)]
    sockets: SocketsTable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SocketsTable {
    pep_group: Option<String>,
    admin_group: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PepTable {
    #[serde(default)]
    listen: Vec<SocketAddr>,
    #[serde(default)]
    users: Vec<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct AttestTable {
    sha256: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct BrokerTable {
    #[serde(default)]
    urls: Vec<BrokerUrl>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LogTable {
    level: Option<LogLevel>,
    format: Option<LogFormat>,
}

impl Config {
    /// The configuration of these sources.
    ///
    /// # Errors
    /// The first thing that is wrong, with where it stands and what to do.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let (path, file) = sources.file()?;
        // A path in the file means the same from wherever the agent is started.
        let folder = path.parent().unwrap_or(Path::new(""));
        let beside = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        let state_dir = match sources.path("state-dir", &sources.flags.state_dir).or(beside(file.state_dir)) {
            Some(folder) => folder,
            None => sources.default_state_dir()?,
        };
        let run_dir = sources
            .path("run-dir", &sources.flags.run_dir)
            .or(beside(file.run_dir))
            .unwrap_or_else(|| sources.default_run_dir(&state_dir));
        let named = |flag, given: &Option<String>, in_file: Option<String>| {
            let chosen = sources.text(flag, given).map(|(origin, name)| (origin, name, Path::new("")));
            chosen.or(in_file.map(|name| (path.display().to_string(), name, folder)))
        };
        let profile = named("profile", &sources.flags.profile, file.profile);
        let overlay = named("overlay", &sources.flags.overlay, file.overlay);
        let (level, format) = (file.log.level, file.log.format);
        Ok(Self {
            profile: sources.profile(profile, overlay)?,
            broker: BrokerConfig {
                urls: sources.urls()?.unwrap_or(file.broker.urls),
                ca: beside(file.broker.ca),
                client: client(&path, beside(file.broker.cert), beside(file.broker.key))?,
            },
            log: LogConfig {
                level: sources.parsed("log-level", &sources.flags.log_level)?.or(level).unwrap_or(LogLevel::Info),
                format: sources.parsed("log-format", &sources.flags.log_format)?.or(format).unwrap_or(LogFormat::Json),
            },
            attest: AttestConfig { sha256: file.attest.sha256.unwrap_or_default() },
            sockets: SocketsConfig { pep_group: file.sockets.pep_group, admin_group: file.sockets.admin_group },
            pep: pep(&path, file.pep)?,
            state_dir,
            run_dir,
        })
    }
}

/// Who may ask by TCP must be named, and nobody from another machine may.
fn pep(file: &Path, PepTable { listen, users }: PepTable) -> Result<PepConfig, ConfigError> {
    let refused = |value: String, why: String| ConfigError::Value {
        origin: format!("{}: [pep] listen", file.display()),
        value,
        why,
    };
    if let Some(address) = listen.iter().find(|address| !address.ip().is_loopback()) {
        let why =
            "it must be an address of loopback, 127.0.0.1 or [::1]: the kernel says only there whose a connection is";
        return Err(refused(address.to_string(), why.into()));
    }
    if listen.len() > PepConfig::LISTEN_MAX {
        return Err(refused(listen.len().to_string(), format!("it holds at most {} addresses", PepConfig::LISTEN_MAX)));
    }
    match listen.first() {
        Some(address) if users.is_empty() => {
            let why = "any user of this device can connect there: name those of enforcement points in `users`, as `id -u` tells";
            Err(refused(address.to_string(), why.into()))
        }
        _ => Ok(PepConfig { listen, users }),
    }
}

fn client(file: &Path, cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<ClientCertificate>, ConfigError> {
    let alone = |present: PathBuf, absent: &str| ConfigError::Value {
        origin: format!("{}: [broker]", file.display()),
        value: present.display().to_string(),
        why: format!("a certificate goes with its key; `{absent}` is missing"),
    };
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(ClientCertificate { cert, key })),
        (Some(cert), None) => Err(alone(cert, "key")),
        (None, Some(key)) => Err(alone(key, "cert")),
        (None, None) => Ok(None),
    }
}

impl Sources {
    /// The configuration file and where it is. One that nobody named may be absent.
    fn file(&self) -> Result<(PathBuf, File), ConfigError> {
        let named = self.path("config", &self.flags.config);
        let Some(path) = named.clone().or_else(|| self.default_config()) else {
            return Ok((PathBuf::new(), File::default()));
        };
        match (self.read)(&path) {
            Ok(text) => Ok((path.clone(), parse_text(&path.display().to_string(), &text)?)),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok((path, File::default())),
            Err(reason) => Err(ConfigError::Unreadable { path, reason, flag: "--config" }),
        }
    }

    /// A flag's text, else its variable's, with where it was found. An empty variable counts as unset.
    fn text(&self, flag: &str, given: &Option<String>) -> Option<(String, String)> {
        if let Some(text) = given {
            return Some((format!("--{flag}"), text.clone()));
        }
        let name = format!("HARDTACK_{}", flag.to_ascii_uppercase().replace('-', "_"));
        let text = self.env.get(&name).filter(|text| !text.is_empty())?;
        Some((name, text.clone()))
    }

    fn path(&self, flag: &str, given: &Option<PathBuf>) -> Option<PathBuf> {
        given.clone().or_else(|| self.text(flag, &None).map(|(_, text)| text.into()))
    }

    fn parsed<T: FromStr<Err = String>>(&self, flag: &str, given: &Option<String>) -> Result<Option<T>, ConfigError> {
        let Some((origin, value)) = self.text(flag, given) else { return Ok(None) };
        value.parse().map(Some).map_err(|why| ConfigError::Value { origin, value, why })
    }

    /// Addresses of flags, else of the variable, which separates them with commas.
    fn urls(&self) -> Result<Option<Vec<BrokerUrl>>, ConfigError> {
        let (origin, texts) = if self.flags.broker.is_empty() {
            let Some((origin, text)) = self.text("broker", &None) else { return Ok(None) };
            (origin, text.split(',').map(|url| url.trim().to_owned()).collect())
        } else {
            ("--broker".to_owned(), self.flags.broker.clone())
        };
        let parse = |text: &String| {
            let refuse = |why| ConfigError::Value { origin: origin.clone(), value: text.clone(), why };
            text.parse().map_err(refuse)
        };
        texts.iter().map(parse).collect::<Result<_, _>>().map(Some)
    }

    fn profile(
        &self,
        class: Option<(String, String, &Path)>,
        overlay: Option<(String, String, &Path)>,
    ) -> Result<Profile, ConfigError> {
        let text_error = |error: TextError| ConfigError::Profile(error.into());
        let profile = match class {
            Some(class) => {
                let (file, text) = self.profile_text(Kind::Class, class)?;
                Profile::parse(&file, &text).map_err(text_error)?
            }
            None => Profile::default(),
        };
        let profile = match overlay {
            Some(overlay) => {
                let (file, text) = self.profile_text(Kind::Overlay, overlay)?;
                profile.with(&Overlay::parse(&file, &text).map_err(text_error)?)
            }
            None => profile,
        };
        Ok(profile.checked()?)
    }

    /// The name and text of a profile: of a file where the name looks like a path, else of a shipped one.
    fn profile_text(
        &self,
        kind: Kind,
        (origin, name, folder): (String, String, &Path),
    ) -> Result<(String, String), ConfigError> {
        let (word, flag) = match kind {
            Kind::Class => ("profile", "--profile"),
            Kind::Overlay => ("overlay", "--overlay"),
        };
        if name.contains('/') || name.ends_with(".toml") {
            let path = folder.join(&name);
            return match (self.read)(&path) {
                Ok(text) => Ok((path.display().to_string(), text)),
                Err(reason) => Err(ConfigError::Unreadable { path, reason, flag }),
            };
        }
        match shipped(&name, kind) {
            Some(shipped) => Ok((name, shipped.text.to_owned())),
            None => {
                let known: Vec<&str> = SHIPPED.iter().filter(|s| s.kind == kind).map(|s| s.name).collect();
                Err(ConfigError::NoSuchProfile { origin, kind: word, name, known: known.join(", ") })
            }
        }
    }

    fn default_config(&self) -> Option<PathBuf> {
        match self.user {
            User::Root => Some("/etc/hardtack/agent.toml".into()),
            User::Ordinary => self.user_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("agent.toml")),
        }
    }

    fn default_state_dir(&self) -> Result<PathBuf, ConfigError> {
        match self.user {
            User::Root => Ok("/var/lib/hardtack".into()),
            User::Ordinary => self
                .user_folder("XDG_STATE_HOME", ".local/state")
                .ok_or(ConfigError::NoFolder { what: "state", flag: "--state-dir" }),
        }
    }

    fn default_run_dir(&self, state_dir: &Path) -> PathBuf {
        match self.user {
            User::Root => "/run/hardtack".into(),
            // Without a session there is no runtime folder; the state folder is as private.
            User::Ordinary => self.xdg("XDG_RUNTIME_DIR").unwrap_or_else(|| state_dir.join("run")),
        }
    }

    fn user_folder(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let home = || self.env.get("HOME").filter(|home| !home.is_empty());
        self.xdg(variable).or_else(|| Some(Path::new(home()?).join(below_home).join("hardtack")))
    }

    /// `hardtack` below the folder of an XDG variable; a relative one counts as unset, says the specification.
    fn xdg(&self, variable: &str) -> Option<PathBuf> {
        let folder = Path::new(self.env.get(variable)?);
        folder.is_absolute().then(|| folder.join("hardtack"))
    }
}

impl FromStr for LogLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err("use error, warn, info, debug or trace".into()),
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err("use json or text".into()),
        }
    }
}

impl FromStr for BrokerUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest, default_port) = match text.split_once("://") {
            Some(("mqtt", rest)) => (Scheme::Mqtt, rest, 1883),
            Some(("mqtts", rest)) => (Scheme::Mqtts, rest, 8883),
            Some(_) | None => return Err("a broker's address begins with mqtts:// or mqtt://".into()),
        };
        if rest.contains('@') {
            return Err("no user or password goes into an address; devices log in with their certificate".into());
        }
        let (host, port) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, port))) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
            Some(_) => return Err("an IPv6 address stands in brackets: mqtts://[2001:db8::1]:8883".into()),
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => port.is_empty().then_some(default_port),
        };
        let port = port.ok_or("the port is a number from 1 to 65535, and nothing stands behind it")?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-:_".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(allowed) {
            return Err("between :// and the port stands a host name or an IP address".into());
        }
        Ok(Self { scheme, host: host.to_owned(), port })
    }
}

impl TryFrom<String> for BrokerUrl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("{text:?} is not possible: {why}"))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
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

    const TEXT: &str = r#"
state_dir = "/data/hardtack"
run_dir = "sockets"
profile = "energy-armv7-1g"
overlay = "link-lte-metered"
[broker]
urls = ["mqtts://a.example", "mqtt://[::1]:1884"]
ca = "ca.pem"
cert = "gw.pem"
key = "/keys/gw.key"
[log]
level = "debug"
format = "text"
[attest]
sha256 = true
[sockets]
pep_group = "proxies"
"#;

    fn read(path: &Path) -> io::Result<String> {
        match path.to_str() {
            Some("/etc/hardtack/agent.toml") => Ok(TEXT.into()),
            Some("/etc/hardtack/unknown.toml") => Ok("state_dir = '/x'\n[broker]\nurl = 'mqtt://a'\n".into()),
            Some("/etc/hardtack/level.toml") => Ok("[log]\nlevel = 'loud'\n".into()),
            Some("/etc/hardtack/url.toml") => Ok("[broker]\nurls = ['http://a']\n".into()),
            Some("/etc/hardtack/half.toml") => Ok("[broker]\ncert = 'gw.pem'\n".into()),
            Some("/etc/hardtack/board.toml") => Ok("profile = 'boards/mine.toml'\n".into()),
            Some("/etc/hardtack/ghost.toml") => Ok("profile = 'toaster'\n".into()),
            Some("/etc/hardtack/boards/mine.toml") => {
                Ok(SHIPPED[0].text.replace("keepalive_s = 30", "keepalive_s = 3"))
            }
            Some(_) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sources(user: User, flags: Flags, env: &[(&str, &str)]) -> Sources {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sources { flags, env, user, read }
    }

    #[test]
    fn the_file_says_it_all() {
        let config = Config::load(&sources(User::Root, Flags::default(), &[])).unwrap();
        assert_eq!(config.state_dir, Path::new("/data/hardtack"));
        assert_eq!(config.run_dir, Path::new("/etc/hardtack/sockets"), "relative to the file");
        assert_eq!(config.profile.name, "energy-armv7-1g+link-lte-metered");
        let urls: Vec<String> = config.broker.urls.iter().map(BrokerUrl::to_string).collect();
        assert_eq!(urls, ["mqtts://a.example:8883", "mqtt://[::1]:1884"]);
        assert_eq!(config.broker.ca.unwrap(), Path::new("/etc/hardtack/ca.pem"));
        assert_eq!(config.broker.client.unwrap().key, Path::new("/keys/gw.key"));
        assert_eq!(config.log, LogConfig { level: LogLevel::Debug, format: LogFormat::Text });
        assert!(config.attest.sha256);
        assert_eq!(config.sockets, SocketsConfig { pep_group: Some("proxies".into()), admin_group: None });
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let env = [("HARDTACK_STATE_DIR", "/env"), ("HARDTACK_LOG_LEVEL", "warn"), ("HARDTACK_RUN_DIR", "")];
        let flags = Flags { state_dir: Some("/flag".into()), ..Flags::default() };
        let config = Config::load(&sources(User::Root, flags, &env)).unwrap();
        assert_eq!(config.state_dir, Path::new("/flag"));
        assert_eq!(config.log.level, LogLevel::Warn);
        assert_eq!(config.run_dir, Path::new("/etc/hardtack/sockets"), "an empty variable counts as unset");

        let env = [("HARDTACK_BROKER", "mqtt://a, mqtts://b:1"), ("HARDTACK_PROFILE", "generic-x86_64")];
        let flags = Flags { overlay: Some("link-lte-metered".into()), ..Flags::default() };
        let config = Config::load(&sources(User::Root, flags, &env)).unwrap();
        assert_eq!(config.broker.urls.len(), 2);
        assert_eq!(config.profile.name, "generic-x86_64+link-lte-metered");
    }

    #[test]
    fn folders_follow_the_user() {
        check_folders(&[("HOME", "/home/u")], "/home/u/.local/state/hardtack", "/home/u/.local/state/hardtack/run");
        let xdg = [("HOME", "/home/u"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/run/user/1")];
        check_folders(&xdg, "/s/hardtack", "/run/user/1/hardtack");
        let relative = [("HOME", "/home/u"), ("XDG_STATE_HOME", "s")];
        check_folders(&relative, "/home/u/.local/state/hardtack", "/home/u/.local/state/hardtack/run");
        let error = Config::load(&sources(User::Ordinary, Flags::default(), &[])).unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }

    #[track_caller]
    fn check_folders(env: &[(&str, &str)], state: &str, run: &str) {
        let config = Config::load(&sources(User::Ordinary, Flags::default(), env)).unwrap();
        assert_eq!((config.state_dir.to_str(), config.run_dir.to_str()), (Some(state), Some(run)));
        assert_eq!(config.profile, Profile::default());
        assert_eq!(config.broker, BrokerConfig::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        check_error("unknown.toml", &["/etc/hardtack/unknown.toml:3: unknown key `url`"]);
        check_error("level.toml", &["level.toml:2", "loud", "debug"]);
        check_error("url.toml", &["url.toml:2", "http://a", "mqtts://"]);
        check_error("half.toml", &["half.toml", "`key` is missing"]);
        check_error("board.toml", &["`link.keepalive_s`: 3 is not between 5"]);
        check_error("ghost.toml", &["ghost.toml", "toaster", "energy-armv7-1g"]);
        check_error("missing.toml", &["cannot read /etc/hardtack/missing.toml", "--config"]);
    }

    #[track_caller]
    fn check_error(file: &str, parts: &[&str]) {
        let flags = Flags { config: Some(format!("/etc/hardtack/{file}").into()), ..Flags::default() };
        let message = Config::load(&sources(User::Root, flags, &[])).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        for (text, canonical) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            ("mqtts://10.0.0.1:1", "mqtts://10.0.0.1:1"),
            ("mqtts://[2001:db8::1]", "mqtts://[2001:db8::1]:8883"),
        ] {
            assert_eq!(text.parse::<BrokerUrl>().map(|url| url.to_string()).as_deref(), Ok(canonical));
            assert_eq!(canonical.parse::<BrokerUrl>().map(|url| url.to_string()).as_deref(), Ok(canonical));
        }
        for bad in [
            "",
            "localhost:1883",
            "http://a",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://a:0",
            "mqtt://a:65536",
            "mqtt://a:1883/x",
            "mqtt://a/x",
            "mqtt://u:p@a",
            "mqtt://[::1",
            "mqtt://[a]:1",
            "mqtt://::1",
            "mqtt://a b",
            "mqtt://é",
        ] {
            assert!(bad.parse::<BrokerUrl>().is_err(), "{bad:?}");
        }
    }
}
