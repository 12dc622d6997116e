//! Who asks: selectors from what the kernel says.
//!
//! Owns: the selectors of a caller, with SPIRE's names (`unix:uid`, `unix:gid`, `unix:path`).
//! Never: believes anything that the caller says about itself.
//! Read next: `wallet.rs`, where grants say which selector may begin what.

use super::request::Evidence;

/// The selectors of a caller, most general first.
pub fn selectors(evidence: &Evidence) -> Vec<String> {
    let mut selectors = vec![format!("unix:uid:{}", evidence.uid), format!("unix:gid:{}", evidence.gid)];
    // A path that a token could not hold, or that the kernel marks as gone, attests nothing.
    let usable = |path: &&String| {
        path.starts_with('/')
            && path.len() <= 240
            && !path.ends_with(" (deleted)")
            && !path.chars().any(char::is_control)
    };
    selectors.extend(evidence.path.as_ref().filter(usable).map(|path| format!("unix:path:{path}")));
    selectors
}

#[cfg(test)]
mod tests {
    use super::super::request::Socket;
    use super::*;

    #[test]
    fn a_path_counts_only_where_it_is_one() {
        check_path(Some("/usr/bin/meter"), true);
        check_path(Some("/usr/bin/meter (deleted)"), false);
        check_path(Some("meter"), false);
        check_path(Some("/a\nb"), false);
        check_path(None, false);
    }

    #[track_caller]
    fn check_path(path: Option<&str>, counts: bool) {
        let path = path.map(str::to_owned);
        let evidence = Evidence { socket: Socket::Agent, uid: 1001, gid: 100, pid: Some(7), path };
        let selectors = selectors(&evidence);
        assert_eq!(selectors[..2], ["unix:uid:1001", "unix:gid:100"]);
        assert_eq!(selectors.len() == 3, counts);
    }
}
