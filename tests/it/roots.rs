//! Several root keys, of which some must sign: with the built binary, key files on media of their own, a broker and a device
//! that follows.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hardtack::shell::cast::{Fleet, Gateway, Player, Stage};
use serde_json::Value;

use crate::support::mosquitto::Mosquitto;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_hardtack"))
}

/// A command's exit code, its answer, and what it says besides.
fn run(args: &[&str]) -> (i32, Value, String) {
    run_with(None, args)
}

/// The same, with a passphrase at hand.
fn run_with(passphrase: Option<&str>, args: &[&str]) -> (i32, Value, String) {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HARDTACK_")) {
        command.env_remove(name);
    }
    command.args(["-o", "json", "fleet"]).args(args).stdin(Stdio::null());
    let mut file = tempfile::tempfile().unwrap();
    if let Some(passphrase) = passphrase {
        file.write_all(passphrase.as_bytes()).unwrap();
        file.rewind().unwrap();
        command.env("HARDTACK_PASSPHRASE_FD", "0").stdin(file);
    }
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let answer = serde_json::from_str(stdout.trim()).unwrap_or(Value::Null);
    (output.status.code().unwrap(), answer, stderr.into_owned())
}

/// Two of three root keys must sign; each lies on a stick of its own.
struct Ceremony {
    folder: tempfile::TempDir,
    dir: PathBuf,
    fingerprint: String,
}

impl Ceremony {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("fleet");
        let made = ["init", dir.to_str().unwrap(), "--name", "acme", "--no-passphrase"];
        let (code, made, error) = run(&[&made[..], &["--roots", "3", "--threshold", "2"]].concat());
        assert_eq!(code, 0, "{error}");
        let fingerprint = made["fingerprint"].as_str().unwrap().to_owned();
        let ceremony = Self { folder, dir, fingerprint };
        (1..=3).for_each(|number| ceremony.take_away(number));
        ceremony
    }

    fn stick(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("stick-{number}.key"))
    }

    /// A root key's file leaves the fleet's folder.
    fn take_away(&self, number: usize) {
        std::fs::rename(self.dir.join(format!("keys/root.{number}.key")), self.stick(number)).unwrap();
    }

    fn fleet(&self, args: &[&str]) -> (i32, Value, String) {
        run(&[args, &["--dir", self.dir.to_str().unwrap()]].concat())
    }

    /// A command that has to be signed elsewhere: the proposal.
    #[track_caller]
    fn asks(&self, args: &[&str]) -> PathBuf {
        let (code, asked, error) = self.fleet(args);
        assert_eq!((code, &asked["in_force"]), (11, &Value::Bool(false)), "{asked} {error}");
        PathBuf::from(asked["proposal"].as_str().unwrap())
    }

    /// Somebody signs a copy of his own, on a machine that has nothing else.
    #[track_caller]
    fn sign(&self, proposal: &Path, number: usize) -> PathBuf {
        let elsewhere = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let (copy, signed) = (elsewhere.join("asked"), elsewhere.join("signed"));
        std::fs::copy(proposal, &copy).unwrap();
        let stick = self.stick(number);
        let args = ["key", "sign", copy.to_str().unwrap(), "--root", stick.to_str().unwrap(), "--out"];
        let (code, _, error) = run(&[&args[..], &[signed.to_str().unwrap()]].concat());
        assert!(code == 2 && error.contains("--yes"), "nobody said yes: {code} {error}");
        let (code, answer, error) = run(&[&args[..], &[signed.to_str().unwrap(), "--yes"]].concat());
        assert!(code == 0 && !answer["words"].as_array().unwrap().is_empty(), "{answer} {error}");
        signed
    }

    #[track_caller]
    fn submit(&self, signed: &[&Path]) -> Value {
        let files: Vec<&str> = signed.iter().map(|path| path.to_str().unwrap()).collect();
        let (code, answer, error) = self.fleet(&[&["key", "submit"], &files[..]].concat());
        assert_eq!((code, &answer["in_force"]), (0, &Value::Bool(true)), "{answer} {error}");
        answer
    }

    /// A command, signed by two and submitted.
    #[track_caller]
    fn carried_out(&self, args: &[&str], by: [usize; 2]) -> Value {
        let asked = self.asks(args);
        let signed = by.map(|number| self.sign(&asked, number));
        self.submit(&[&signed[0], &signed[1]])
    }
}

/// A fleet of a ceremony that serves, with one device.
struct Site {
    ceremony: Ceremony,
    fleet: Fleet,
    gateway: Gateway,
    url: String,
    _broker: Mosquitto,
}

impl Site {
    fn new() -> Self {
        let (broker, ceremony) = (Mosquitto::open(), Ceremony::new());
        let url = format!("mqtt://{}", broker.addr());
        let stage = Stage::new(binary().into());
        let fleet = Fleet::open(&stage, ceremony.dir.clone(), ceremony.fingerprint.clone());
        let gateway = Gateway::new(&stage, "gw-07", ceremony.folder.path());
        fleet.enrol(&gateway, ceremony.folder.path()).unwrap();
        Self { ceremony, fleet, gateway, url, _broker: broker }
    }

    fn serve(&self) -> Player {
        self.fleet.serve(&self.url).unwrap()
    }

    #[track_caller]
    fn reaches(&self, bundle: u64) {
        let there = |status: &Value| status["bundle_version"].as_u64() == Some(bundle) && status["mode"] == "online";
        self.gateway.wait_status(&format!("bundle {bundle}"), there).unwrap();
    }
}

#[test]
fn a_feed_key_is_replaced_by_two_of_three_sticks_and_the_device_follows() {
    let mut site = Site::new();
    let serve = site.serve();
    site.gateway.start(&site.url, 0).unwrap();
    site.reaches(1);
    let ceremony = &site.ceremony;
    let asked = ceremony.asks(&["key", "rotate", "feed", "--compromised"]);
    let (first, third) = (ceremony.sign(&asked, 1), ceremony.sign(&asked, 3));
    for too_few in [vec![&asked], vec![&asked, &first]] {
        let files: Vec<&str> = too_few.iter().map(|path| path.to_str().unwrap()).collect();
        let (code, _, error) = ceremony.fleet(&[&["key", "submit"], &files[..]].concat());
        assert!(code == 11 && error.contains("2 of the 3 root keys"), "{code} {error}");
    }
    let submitted = ceremony.submit(&[&first, &third]);
    assert_eq!(submitted["bundle_version"], 2, "{submitted}");
    let again = ceremony.submit(&[&first, &third]);
    assert_eq!(again["began_before"], true, "{again}");
    drop(serve);
    let _serve = site.serve();
    site.reaches(2);
    let revoked = site.fleet.run(&["revoke", "task", "t-1", "--wait", "--timeout", "20s"]).unwrap();
    assert_eq!(revoked["wait"]["complete"], true, "{revoked}");
    site.fleet.run(&["audit", "acts"]).unwrap();
    // A proposal for a bundle that is not the next any more.
    let late = ceremony.asks(&["key", "rotate", "service"]);
    ceremony.carried_out(&["key", "rotate", "issuer"], [1, 2]);
    let signed = [1, 2].map(|number| ceremony.sign(&late, number));
    let files = signed.each_ref().map(|path| path.to_str().unwrap());
    let (code, _, error) = ceremony.fleet(&[&["key", "submit"], &files[..]].concat());
    assert!(code == 1 && error.contains("propose again"), "{code} {error}");
}

#[test]
fn root_keys_change_while_a_device_is_away_and_it_walks_through_all_of_them() {
    let mut site = Site::new();
    let ceremony = &site.ceremony;
    // The second stick is lost, then the first is replaced by plan, with the new second one.
    ceremony.carried_out(&["key", "rotate", "root", "2", "--compromised"], [1, 3]);
    std::fs::remove_file(ceremony.stick(2)).unwrap();
    ceremony.take_away(2);
    ceremony.carried_out(&["key", "rotate", "root", "1"], [2, 3]);
    let gone = ceremony.stick(1);
    let asked = ceremony.asks(&["key", "rotate", "service"]);
    let args = ["key", "sign", asked.to_str().unwrap(), "--root", gone.to_str().unwrap(), "--yes"];
    let (code, _, error) = run(&args);
    assert!(code == 3 && error.contains("no root key of trust bundle 3"), "{code} {error}");
    // The folder has the new first one still: it signs by itself.
    let (code, rotated, error) =
        ceremony.fleet(&["key", "rotate", "service", "--root", ceremony.stick(3).to_str().unwrap()]);
    assert_eq!((code, rotated["bundle_version"].as_u64()), (0, Some(4)), "{error}");
    let (code, shape, error) = ceremony.fleet(&[
        "key",
        "roots",
        "--roots",
        "2",
        "--threshold",
        "1",
        "--root",
        ceremony.stick(3).to_str().unwrap(),
    ]);
    assert_eq!((code, &shape["threshold"]), (0, &1.into()), "{error}");

    let _serve = site.serve();
    site.gateway.start(&site.url, 0).unwrap();
    site.reaches(5);
    // Who is enrolled now compares the fingerprint of version 1, and walks as well.
    let stage = Stage::new(binary().into());
    let mut late = Gateway::new(&stage, "gw-08", site.ceremony.folder.path());
    site.fleet.enrol(&late, site.ceremony.folder.path()).unwrap();
    late.start(&site.url, 0).unwrap();
    let there = |status: &Value| status["bundle_version"] == 5 && status["mode"] == "online";
    late.wait_status("bundle 5", there).unwrap();
    let (_, listed, _) = site.ceremony.fleet(&["key", "list"]);
    let roots: Vec<&Value> = listed["keys"].as_array().unwrap().iter().filter(|key| key["role"] == "root").collect();
    let states: Vec<&str> = roots.iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["in_use", "in_use", "gone", "gone", "gone"], "{listed}");
    assert_eq!((&roots[0]["file"], &roots[1]["file"]), (&"plain".into(), &"not here".into()), "{listed}");
    assert_eq!(listed["fingerprint"], site.ceremony.fingerprint.as_str());
}

#[test]
fn one_root_key_becomes_two_of_three_and_every_other_key_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(binary().into());
    let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
    let keys = fleet.dir.join("keys");
    let grown = fleet.run(&["key", "roots", "--roots", "3", "--threshold", "2"]).unwrap();
    assert_eq!((&grown["threshold"], grown["files"].as_array().unwrap().len()), (&2.into(), 3), "{grown}");
    assert!(!keys.join("root.key").exists() && keys.join("root.1.key").exists());
    let again = fleet.run(&["key", "roots", "--roots", "3", "--threshold", "2"]).unwrap();
    assert_eq!(again["began_before"], true, "{again}");
    for role in ["operator", "collector"] {
        for cause in [&[][..], &["--compromised"]] {
            let old = std::fs::read(keys.join(format!("{role}.key"))).unwrap();
            let rotated = fleet.run(&[&["key", "rotate", role], cause].concat()).unwrap();
            assert_eq!(rotated["role"], role);
            let aside = rotated["old_file"].as_str().unwrap();
            assert_eq!(std::fs::read(aside).unwrap(), old, "what was replaced is kept");
            fleet.run(&["revoke", "task", &format!("t-{role}-{}", cause.len())]).unwrap();
            fleet.run(&["audit", "acts"]).unwrap();
            fleet.run(&["audit", "verify"]).unwrap();
        }
    }
    // Cut off between the ledger and the files' places: the same command ends it.
    let rotated = fleet.run(&["key", "rotate", "operator"]).unwrap();
    std::fs::rename(keys.join("operator.key"), keys.join("operator.key.next")).unwrap();
    std::fs::rename(rotated["old_file"].as_str().unwrap(), keys.join("operator.key")).unwrap();
    let ended = fleet.run(&["key", "rotate", "operator"]).unwrap();
    assert_eq!((&ended["began_before"], &ended["key_id"]), (&Value::Bool(true), &rotated["key_id"]));
    // A root key that is replaced twice, with all of them here.
    for _ in 0..2 {
        let replaced = fleet.run(&["key", "rotate", "root", "3"]).unwrap();
        assert_eq!(replaced["old_files"].as_array().unwrap().len(), 1, "{replaced}");
    }
    let one = fleet.run(&["key", "roots", "--roots", "1", "--threshold", "1"]).unwrap();
    assert_eq!(one["old_files"].as_array().unwrap().len(), 2, "{one}");
    assert!(keys.join("root.key").exists() && !keys.join("root.1.key").exists());
    fleet.run(&["key", "rotate", "root"]).unwrap();
    fleet.run(&["key", "rotate", "feed"]).unwrap();
    let copy = folder.path().join("copy");
    let backup = fleet.run(&["backup", "--out", copy.to_str().unwrap()]).unwrap();
    assert!(backup["not_in_it"].as_array().unwrap().contains(&"keys/".into()), "{backup}");
    fleet.run(&["restore", copy.to_str().unwrap()]).unwrap();
    fleet.run(&["audit", "acts"]).unwrap();
}

#[test]
fn a_clock_is_reset_by_two_of_three() {
    let site = Site::new();
    let (ceremony, out) = (&site.ceremony, site.ceremony.folder.path().join("reset.time"));
    let nonce = "07070707070707070707070707070707";
    let asked =
        ceremony.asks(&["time", "reset", "--device", "gw-07", "--nonce", nonce, "--out", out.to_str().unwrap()]);
    assert!(!out.exists());
    let signed = [1, 2].map(|number| ceremony.sign(&asked, number));
    let files = signed.each_ref().map(|path| path.to_str().unwrap());
    let (code, _, error) = ceremony.fleet(&[&["key", "submit"], &files[..]].concat());
    assert!(code == 2 && error.contains("--out FILE"), "{code} {error}");
    let (code, given, error) =
        ceremony.fleet(&[&["key", "submit"], &files[..], &["--out", out.to_str().unwrap()]].concat());
    assert_eq!((code, &given["device"]), (0, &"gw-07".into()), "{error}");
    assert!(out.exists());
}

#[test]
fn nothing_strange_is_signed() {
    let (ceremony, other) = (Ceremony::new(), Ceremony::new());
    let asked = ceremony.asks(&["key", "rotate", "feed"]);
    let sign = |file: &Path, root: &Path, more: &[&str]| {
        run(&[&["key", "sign", file.to_str().unwrap(), "--root", root.to_str().unwrap(), "--yes"], more].concat())
    };
    let before = std::fs::read(&asked).unwrap();
    // Of another fleet, though its name is the same.
    let (code, _, error) = sign(&asked, &other.stick(1), &[]);
    assert!(code == 12 && error.contains("another fleet"), "{code} {error}");
    let (code, _, error) = sign(&asked, &ceremony.stick(1), &["--fleet", &other.fingerprint]);
    assert_eq!(code, 12, "{error}");
    // No root key at all, no proposal at all, and a changed one.
    let (code, _, error) = sign(&asked, &ceremony.dir.join("keys/feed.key"), &[]);
    assert_eq!(code, 1, "{error}");
    let (code, _, error) = sign(&ceremony.stick(1), &ceremony.stick(1), &[]);
    assert_eq!(code, 12, "{error}");
    let changed = ceremony.folder.path().join("changed");
    let mut bytes = before.clone();
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    std::fs::write(&changed, &bytes).unwrap();
    let (code, _, error) = sign(&changed, &ceremony.stick(1), &[]);
    assert_eq!(code, 12, "{error}");
    assert_eq!(std::fs::read(&asked).unwrap(), before, "nothing was signed");
    for bad in [["--roots", "3", "--threshold", "4"], ["--roots", "9", "--threshold", "2"]] {
        let dir = ceremony.folder.path().join("none");
        let args = ["init", dir.to_str().unwrap(), "--name", "acme", "--no-passphrase"];
        let (code, _, error) = run(&[&args[..], &bad].concat());
        assert!(code == 2 && !dir.exists(), "{code} {error}");
    }
}

#[test]
fn a_root_key_has_a_passphrase_of_its_own() {
    let ceremony = Ceremony::new();
    let here = ceremony.dir.join("keys/root.1.key");
    std::fs::copy(ceremony.stick(1), &here).unwrap();
    let change = ["key", "passphrase", "root", here.to_str().unwrap()];
    let (code, _, error) = run_with(Some("short\n"), &change);
    assert!(code == 1 && error.contains("8 characters"), "{code} {error}");
    let (code, _, error) = run_with(Some("correct horse\n"), &change);
    assert_eq!(code, 0, "{error}");
    let (_, listed, _) = ceremony.fleet(&["key", "list"]);
    assert_eq!((&listed["keys"][0]["file"], &listed["keys"][1]["file"]), (&"encrypted".into(), &"not here".into()));
    // Nobody gives it: the key counts as one that is elsewhere.
    let (code, asked, error) = ceremony.fleet(&["key", "rotate", "feed"]);
    assert_eq!((code, asked["closed"].as_array().unwrap().len()), (11, 1), "{error}");
    let proposal = PathBuf::from(asked["proposal"].as_str().unwrap());
    let sign = ["key", "sign", proposal.to_str().unwrap(), "--root", here.to_str().unwrap(), "--yes"];
    let (code, _, error) = run_with(Some("wrong horse\n"), &sign);
    assert!(code == 1 && error.contains("does not open"), "{code} {error}");
    let (code, signed, error) = run_with(Some("correct horse\n"), &sign);
    assert_eq!((code, &signed["complete"]), (0, &Value::Bool(false)), "{error}");
    ceremony.submit(&[&ceremony.sign(&proposal, 2)]);
    // With the passphrase at hand it signs by itself.
    let stick = ceremony.stick(3);
    let rotate = ["key", "rotate", "service", "--root", stick.to_str().unwrap()];
    let dir = ["--dir", ceremony.dir.to_str().unwrap()];
    let (code, rotated, error) = run_with(Some("correct horse\n"), &[&rotate[..], &dir].concat());
    assert_eq!((code, &rotated["bundle_version"]), (0, &3.into()), "{error}");
}
