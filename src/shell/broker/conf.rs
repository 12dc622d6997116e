//! mosquitto's configuration.
//!
//! Owns: the text of `mosquitto.conf`, and where the dynamic-security plugin usually is.
//! Never: names a path that depends on where mosquitto is started.
//! Read next: `dynsec.rs`.

use std::path::{Path, PathBuf};

use super::{BrokerError, Ports};
use crate::shell::mqtt::LinkConfig;

/// The plugin's file in the packages of the usual distributions: Debian's folder per architecture, then the others'.
pub(super) fn find_plugin() -> Option<PathBuf> {
    const NAME: &str = "mosquitto_dynamic_security.so";
    let per_architecture = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let others = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/mosquitto"].map(PathBuf::from);
    let mut found: Vec<PathBuf> =
        per_architecture.chain(others).map(|folder| folder.join(NAME)).filter(|path| path.is_file()).collect();
    found.sort();
    found.into_iter().next()
}

/// The configuration of a broker whose files are in `folder`, an absolute path.
///
/// Two doors, because a listener of mosquitto 2.0 either ties each client id to its certificate or leaves it to the
/// client: devices must not take each other's place, and the service must be able to be there twice.
pub(super) fn text(folder: &Path, plugin: &Path, ports: Ports) -> Result<String, BrokerError> {
    let path = |path: &Path| -> Result<String, BrokerError> {
        match path.to_str() {
            Some(text) if !text.contains(['\n', '\r']) && text.trim() == text => Ok(text.to_owned()),
            Some(_) | None => Err(BrokerError::Path(path.to_owned())),
        }
    };
    let file = |name: &str| path(&folder.join(name));
    let packet = LinkConfig::PACKET_BYTES_MAX;
    let user = owner().map(|name| format!("user {name}\n")).unwrap_or_default();
    Ok(format!(
        "# Written by `hardtack broker config`, which replaces it.\n\
         # Start: mosquitto -c {conf}\n\
         \n\
         # Only this user can read the keys. Counts where mosquitto is started as root.\n\
         {user}\
         log_dest stderr\n\
         log_type error\n\
         log_type warning\n\
         log_type notice\n\
         \n\
         # Who may do what: default deny, one role per device.\n\
         per_listener_settings false\n\
         allow_anonymous false\n\
         plugin {plugin}\n\
         plugin_opt_config_file {roles}\n\
         \n\
         # Retained trust bundles, policies and revocations survive a restart. What is lost all the same the fleet's\n\
         # service publishes again.\n\
         persistence true\n\
         persistence_location {data}/\n\
         autosave_interval 15\n\
         \n\
         # Bounds. A packet is never larger; a device that is away keeps no queue here, its own is on its disk.\n\
         max_packet_size {packet}\n\
         max_inflight_messages 32\n\
         max_queued_messages 1000\n\
         max_queued_bytes 33554432\n\
         set_tcp_nodelay true\n\
         \n\
         # Devices. The certificate is the login: its common name is user name and client id, whatever the client\n\
         # claims, so that no device takes another's place.\n\
         listener {devices}\n\
         cafile {ca}\n\
         certfile {certificate}\n\
         keyfile {key}\n\
         tls_version tlsv1.2\n\
         require_certificate true\n\
         use_identity_as_username true\n\
         use_username_as_clientid true\n\
         \n\
         # The fleet's service, which names each of its connections. Its authority signed nothing but its certificate,\n\
         # so that no device comes in here.\n\
         listener {service}\n\
         cafile {service_ca}\n\
         certfile {certificate}\n\
         keyfile {key}\n\
         tls_version tlsv1.2\n\
         require_certificate true\n\
         use_identity_as_username true\n",
        conf = file("mosquitto.conf")?,
        plugin = path(plugin)?,
        roles = file("dynamic-security.json")?,
        data = file("data")?,
        devices = ports.devices,
        service = ports.service,
        ca = file("ca.pem")?,
        service_ca = file(super::SERVICE_CA)?,
        certificate = file("server.pem")?,
        key = file("server.key")?,
    ))
}

/// The name of the user that runs this program.
fn owner() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id == uid && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { devices: 18883, service: 18884 };

    #[test]
    fn paths_are_absolute_and_hold_no_second_line() {
        let text = text(Path::new("/fleet/broker"), Path::new("/lib/plugin.so"), PORTS).unwrap();
        assert!(text.contains("\nlistener 18883\n") && text.contains("\nlistener 18884\n"));
        assert!(text.contains("\nplugin /lib/plugin.so\n"));
        for line in text.lines().filter(|line| line.contains("broker/") && !line.starts_with('#')) {
            assert!(line.contains(" /fleet/broker/"), "{line}");
        }
        let hostile = super::text(Path::new("/fleet\nallow_anonymous true"), Path::new("/lib/plugin.so"), PORTS);
        assert!(matches!(hostile, Err(BrokerError::Path(_))));
    }
}
