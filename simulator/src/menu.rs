//! The scenarios that ship, by name: what an operator can ask without writing anything.
//!
//! Owns: their texts, so that the program carries them wherever it is copied to.
//! Never: leaves one out that is in `scenarios/`; a test compares.
//! Read next: `scenarios/`.

/// Declares the menu from the names of the files.
macro_rules! menu {
    ($($name:literal)*) => {
        /// Every scenario that ships: its name, and the text of its file.
        pub const MENU: &[(&str, &str)] = &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*];
    };
}

menu! {
    "90-days-offline"
    "anchor-damage"
    "bad-day"
    "boot-loop"
    "clock-storm"
    "cloned"
    "cut-lockdown"
    "cut-reset"
    "denial-flood"
    "disk-full"
    "drawer"
    "emergency"
    "failing-disk"
    "feed-under-attack"
    "flappy-link"
    "groups"
    "groups-locked"
    "herd-on-heal"
    "hijacked-planner"
    "hostile-broker"
    "key-rotation-in-the-dark"
    "live-brief"
    "live-dark"
    "live-rough"
    "lying-disk"
    "month-away"
    "narrowed"
    "not-from-the-dead"
    "overnight"
    "power-cuts"
    "revocation-storm"
    "revoked-in-the-dark"
    "sleeper"
    "slow-link"
    "small-box"
    "small-queue"
    "stolen-feed-key"
    "tampered-tail"
    "thrown-away"
    "time-reset"
    "upgrade-and-back"
    "week-offline-reboots"
    "withheld"
}

/// The text of the scenario of a name.
pub fn find(name: &str) -> Option<&'static str> {
    MENU.iter().find(|(of, _)| *of == name).map(|(_, text)| *text)
}

/// The first sentence of what a scenario says about itself.
pub fn about(text: &str) -> String {
    let table: toml::Table = text.parse().unwrap_or_default();
    let about = table.get("about").and_then(toml::Value::as_str).unwrap_or_default();
    let words: Vec<&str> = about.split_whitespace().collect();
    let words = words.join(" ");
    match words.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn of_every_scenario_that_ships_it_is_written_down_what_it_came_to() {
        let lines = include_str!("../golden.txt").lines().filter_map(|line| line.split_once(' '));
        let golden: Vec<&str> = lines.filter(|(_, hash)| hash.len() == 64).map(|(name, _)| name).collect();
        let mut menu: Vec<&str> = MENU.iter().map(|(name, _)| *name).collect();
        menu.sort_unstable();
        assert_eq!(golden, menu);
    }

    #[test]
    fn every_scenario_that_ships_is_on_the_menu_under_its_own_name() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).unwrap();
        let files: BTreeSet<String> =
            folder.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
        let menu: BTreeSet<String> = MENU.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(menu, files);
        for (name, text) in MENU {
            assert_eq!(crate::scenario::Scenario::parse(text).unwrap().name, *name);
            assert!(about(text).ends_with('.'), "{name}: {}", about(text));
        }
    }
}
