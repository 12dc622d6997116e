//! The fleet's folder in commands that people are told to run.
//!
//! Owns: [`Place`], the argument that names it, and where that goes in a text.
//! Never: names a folder in a command for another machine, as one that signs with a root key is.
//! Read next: `serve.rs`, whose log is read by whoever is in no folder.

use std::path::Path;

/// Commands of this folder. Others, `key sign` and `key list` among them, may be meant for another one.
const OF_THE_FOLDER: [&str; 8] = [
    "device list",
    "emergency all",
    "emergency export",
    "emergency publish",
    "feed list",
    "grant list",
    "group list",
    "publish",
];

/// A folder, as an argument of a command: ` --dir DIR`, or nothing where it needs no name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place(String);

impl Place {
    /// This folder, by a name that leads to it from everywhere.
    pub fn named(folder: &Path) -> Self {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).display().to_string();
        Self(format!(" --dir {}", quoted(&folder)))
    }

    /// The argument, with the space before it.
    pub fn argument(&self) -> &str {
        &self.0
    }

    /// The text, with the argument in each of its commands that is one of this folder and names none yet.
    pub fn put_into(&self, said: &str) -> String {
        let mut text = said.to_owned();
        for command in OF_THE_FOLDER {
            let bare = format!("`hardtack fleet {command}");
            let mut parts = text.split(bare.as_str());
            let mut placed = parts.next().unwrap_or_default().to_owned();
            for rest in parts {
                let arguments = rest.split('`').next().unwrap_or_default();
                let is_whole = rest.starts_with([' ', '`']);
                placed.push_str(&bare);
                if is_whole && !arguments.contains(" --dir ") {
                    placed.push_str(self.argument());
                }
                placed.push_str(rest);
            }
            text = placed;
        }
        // `revocations export` is for whoever has a ledger to make a file of.
        text.replace("`hardtack fleet revocations`", &format!("`hardtack fleet revocations{}`", self.argument()))
    }
}

/// One word for a shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_into_its_own_commands() {
        let place = Place::named(Path::new("/srv/our fleet"));
        for (said, told) in [
            (
                "run `hardtack fleet publish --feed f --after 3` once",
                "run `hardtack fleet publish --dir '/srv/our fleet' --feed f --after 3` once",
            ),
            ("see `hardtack fleet revocations`", "see `hardtack fleet revocations --dir '/srv/our fleet'`"),
            (
                "`hardtack fleet publish` and `hardtack fleet feed list`",
                "`hardtack fleet publish --dir '/srv/our fleet'` and `hardtack fleet feed list --dir '/srv/our fleet'`",
            ),
            ("`hardtack fleet revocations export --out F`", "`hardtack fleet revocations export --out F`"),
            ("on the device: `hardtack status`", "on the device: `hardtack status`"),
            ("`hardtack fleet key sign PROPOSAL --root KEYFILE`", "`hardtack fleet key sign PROPOSAL --root KEYFILE`"),
        ] {
            assert_eq!(place.put_into(said), told);
            assert_eq!(place.put_into(told), told, "once is enough");
            assert_eq!(Place::default().put_into(said), said);
        }
    }
}
