//! A log of real outages, as a scenario: what a fleet's links went through, to be gone through again with everything else that
//! a world can do.
//!
//! Owns: the two forms of such a log, its bounds, what in it is put right and said, and what is refused with its line.
//! Never: draws anything; guesses what a row that contradicts another one means.
//! Read next: `scenario.rs`, which the result is one of.

use std::collections::BTreeMap;

use crate::case::Case;
use crate::report::words::plural;
use crate::scenario::{Span, HEALING};

/// The most rows of a log.
pub const ROWS_MAX: usize = 100_000;
/// The most bytes of a log.
pub const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The most outages that a scenario is made of.
const OUTAGES_MAX: usize = 20_000;
/// The most gateways of a scenario.
const DEVICES_MAX: usize = 10_000;
/// The longest log, from its first moment to its last.
const LENGTH_MAX: u64 = 366 * 86_400_000;
/// Before the first outage: gateways get their grants.
const BEFORE: u64 = 3_600_000;
/// After the last: what was held up is delivered.
const AFTER: u64 = 3_600_000;

/// Why a log is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImportError {
    /// Something in a line.
    #[error("line {line}: {problem}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The log as a whole.
    #[error("{0}")]
    Log(String),
}

/// What is wanted beside the log.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The scenario's name.
    pub name: String,
    /// How many gateways, those that the log names counted in; as many as it names where nothing is said.
    pub devices: Option<u32>,
    /// The class of device, by the name of a shipped profile.
    pub profile: Option<String>,
    /// The seed.
    pub seed: u64,
}

/// A scenario that goes through a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The scenario's file.
    pub text: String,
    /// What in the log was put right.
    pub notes: Vec<String>,
}

/// A time in the log: milliseconds since 1970, or since whatever its seconds count from.
type Moment = u64;

/// Which gateways a row is about; none: all of them.
type Named = Option<String>;

/// The outages of the gateways of one name.
type Outages = BTreeMap<Named, Vec<(Moment, Moment)>>;

/// Turns a log into a scenario.
///
/// # Errors
/// [`ImportError`], with the line and what to do.
pub fn import(log: &str, wanted: &Wanted) -> Result<Imported, ImportError> {
    let mut notes = Vec::new();
    let table = Table::read(log)?;
    let outages = match table.form {
        Form::States { time, device, state } => table.states((time, device, state), &mut notes)?,
        Form::Outages { start, end, device } => table.outages((start, end, device), &mut notes)?,
    };
    let outages = joined(outages, &mut notes);
    let count: usize = outages.values().map(Vec::len).sum();
    if count == 0 {
        return Err(ImportError::Log("the log tells of no outage: nothing would happen in its scenario".into()));
    }
    if count > OUTAGES_MAX {
        return Err(ImportError::Log(format!("{count} outages are more than {OUTAGES_MAX}: cut the log into parts")));
    }
    scenario(&outages, &table.names, wanted, notes)
}

/// The columns of a log.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// When the link of a gateway went up or down.
    States { time: usize, device: Option<usize>, state: usize },
    /// From when to when it was down.
    Outages { start: usize, end: usize, device: Option<usize> },
}

/// A log taken apart.
struct Table<'l> {
    form: Form,
    rows: Vec<(usize, Vec<&'l str>)>,
    /// The gateways that it names, in their order.
    names: BTreeMap<String, u32>,
}

impl<'l> Table<'l> {
    fn read(log: &'l str) -> Result<Self, ImportError> {
        let line = |line: usize, problem: String| ImportError::Line { line, problem };
        let log = log.strip_prefix('\u{feff}').unwrap_or(log);
        let lines = log.lines().zip(1..).filter(|(text, _)| !text.trim().is_empty() && !text.starts_with('#'));
        let mut lines = lines.map(|(text, number)| (number, fields(text)));
        let (first, head) = lines.next().ok_or_else(|| {
            ImportError::Log("the log is empty: its first line names the columns, time,device,state".into())
        })?;
        let head = head.map_err(|problem| line(first, problem))?;
        let column =
            |names: &[&str]| head.iter().position(|column| names.iter().any(|n| column.eq_ignore_ascii_case(n)));
        let device = column(&["device", "gateway", "id"]);
        let form = match (column(&["time", "at"]), column(&["state"]), column(&["start"]), column(&["end"])) {
            (Some(time), Some(state), None, None) => Form::States { time, device, state },
            (None, None, Some(start), Some(end)) => Form::Outages { start, end, device },
            _ => {
                let problem =
                    "the first line names the columns: either time,device,state or start,end,device (without \
                               device, all gateways are meant)";
                return Err(line(first, problem.into()));
            }
        };
        if let Some(stranger) = head.iter().find(|column| {
            let known = ["device", "gateway", "id", "time", "at", "state", "start", "end"];
            !known.iter().any(|name| column.eq_ignore_ascii_case(name))
        }) {
            return Err(line(first, format!("the column {:?} means nothing here: take it out", short(stranger))));
        }
        let (mut rows, mut names) = (Vec::new(), BTreeMap::new());
        for (number, row) in lines {
            let row = row.map_err(|problem| line(number, problem))?;
            if rows.len() >= ROWS_MAX {
                return Err(line(number, format!("more than {ROWS_MAX} rows: cut the log into parts")));
            }
            if row.len() != head.len() {
                let problem = format!("{} fields, and the first line names {} columns", row.len(), head.len());
                return Err(line(number, problem));
            }
            if let Some(name) = device.and_then(|column| row.get(column)) {
                if name.is_empty() || name.len() > 200 {
                    return Err(line(number, "no device, or a name of more than 200 bytes".into()));
                }
                names.entry((*name).to_owned()).or_insert(0);
                if names.len() > DEVICES_MAX {
                    return Err(line(number, format!("more than {DEVICES_MAX} devices: cut the log into parts")));
                }
            }
            rows.push((number, row));
        }
        names.values_mut().zip(0..).for_each(|(number, place)| *number = place);
        Ok(Self { form, rows, names })
    }

    fn named(row: &[&str], device: Option<usize>) -> Named {
        device.and_then(|column| row.get(column)).map(|name| (*name).to_owned())
    }

    /// Rows that say when a link went up and down.
    fn states(
        &self,
        (time, device, state): (usize, Option<usize>, usize),
        notes: &mut Vec<String>,
    ) -> Result<Outages, ImportError> {
        let mut changes: BTreeMap<Named, Vec<(Moment, usize, bool)>> = BTreeMap::new();
        let (mut last, mut unordered) = (0, 0_usize);
        for (number, row) in &self.rows {
            let line = |problem: String| ImportError::Line { line: *number, problem };
            let at = moment(row[time]).map_err(line)?;
            let up = match row[state].to_ascii_lowercase().as_str() {
                "up" => true,
                "down" => false,
                _ => return Err(line(format!("the state {:?} is not known: write up or down", short(row[state])))),
            };
            unordered += usize::from(at < last);
            last = last.max(at);
            changes.entry(Self::named(row, device)).or_default().push((at, *number, up));
        }
        note(notes, unordered, "rows that were out of order were put in the order of their times");
        let (mut again, mut unopened, mut open) = (0, 0, 0);
        let mut outages = Outages::new();
        for (named, mut changes) in changes {
            changes.sort_by_key(|(at, number, _)| (*at, *number));
            if let Some([_, (_, line, _)]) = changes
                .windows(2)
                .find(|pair| pair[0].0 == pair[1].0 && pair[0].2 != pair[1].2)
                .map(|pair| [pair[0], pair[1]])
            {
                let problem = "up and down at one time: say which came first".to_owned();
                return Err(ImportError::Line { line, problem });
            }
            let mut since = None;
            let of = outages.entry(named).or_default();
            let mut before = None;
            for (at, _, up) in changes {
                match (up, since) {
                    (true, Some(begun)) => {
                        of.push((begun, at));
                        since = None;
                    }
                    (false, None) => since = Some(at),
                    (true, None) if before.is_none() => unopened += 1,
                    (true, None) | (false, Some(_)) => again += 1,
                }
                before = Some(up);
            }
            if let Some(begun) = since {
                open += 1;
                of.push((begun, last));
            }
        }
        note(notes, again, "rows that say again what was so already were left out");
        note(notes, unopened, "links came up of which no row says that they were down: they were up before, too");
        note(notes, open, "links were down at the end of the log: the outage ends there");
        Ok(outages)
    }

    /// Rows that are an outage each.
    fn outages(
        &self,
        (start, end, device): (usize, usize, Option<usize>),
        notes: &mut Vec<String>,
    ) -> Result<Outages, ImportError> {
        let mut outages = Outages::new();
        let (mut last, mut unordered) = (0, 0_usize);
        for (number, row) in &self.rows {
            let line = |problem: String| ImportError::Line { line: *number, problem };
            if row[end].is_empty() {
                return Err(line("the outage has no end: write when it ended, or when the log did".into()));
            }
            let (from, to) = (moment(row[start]).map_err(line)?, moment(row[end]).map_err(line)?);
            if to < from {
                return Err(line("the outage ends before it begins".into()));
            }
            unordered += usize::from(from < last);
            last = last.max(from);
            outages.entry(Self::named(row, device)).or_default().push((from, to));
        }
        note(notes, unordered, "rows that were out of order were put in the order of their times");
        Ok(outages)
    }
}

fn note(notes: &mut Vec<String>, count: usize, what: &str) {
    if count > 0 {
        notes.push(format!("{count} {what}"));
    }
}

/// Outages of one name that overlap or meet are one; one of no length is none.
fn joined(outages: Outages, notes: &mut Vec<String>) -> Outages {
    let (mut overlaps, mut empty) = (0, 0);
    let mut whole = Outages::new();
    for (named, mut own) in outages {
        own.sort_unstable();
        let of = whole.entry(named).or_default();
        for (from, to) in own {
            if from == to {
                empty += 1;
                continue;
            }
            match of.last_mut() {
                Some((_, end)) if from <= *end => {
                    overlaps += usize::from(from < *end);
                    *end = to.max(*end);
                }
                Some(_) | None => of.push((from, to)),
            }
        }
    }
    note(notes, overlaps, "outages that overlap another of the same device were made one with it");
    note(notes, empty, "outages of no length were left out");
    whole
}

fn scenario(
    outages: &Outages,
    names: &BTreeMap<String, u32>,
    wanted: &Wanted,
    notes: Vec<String>,
) -> Result<Imported, ImportError> {
    let named = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let devices = wanted.devices.unwrap_or(named.max(1));
    if devices < named {
        return Err(ImportError::Log(format!(
            "the log names {named} devices, and {devices} are wanted: raise --devices"
        )));
    }
    let all = || outages.values().flatten();
    let first = all().map(|(from, _)| *from).min().unwrap_or(0);
    let length = all().map(|(_, to)| *to).max().unwrap_or(first) - first;
    if length > LENGTH_MAX {
        return Err(ImportError::Log("the log goes over more than 366 days: cut it into parts".into()));
    }
    // What befell several at once is one fault.
    let mut faults: BTreeMap<(Moment, Moment), Vec<u32>> = BTreeMap::new();
    for (named, own) in outages {
        let who = named.as_ref().and_then(|name| names.get(name)).copied();
        for (from, to) in own {
            let of = faults.entry((from - first + BEFORE, to - from)).or_default();
            match who {
                Some(number) => of.push(number),
                None => of.extend(0..devices),
            }
        }
    }
    let heal = BEFORE + length + AFTER;
    let told = names.iter().map(|(name, number)| format!("# gw-{number} is {}\n", short(name)));
    let mut text = told.collect::<String>() + "schema = 1\n";
    let mut key = |name: &str, value: toml::Value| text.push_str(&format!("{name} = {value}\n"));
    key("name", wanted.name.clone().into());
    key("about", format!("{} of a real log, from one hour on.", plural(faults.len() as u64, "outage")).into());
    key("seed", toml::Value::Integer(i64::try_from(wanted.seed).unwrap_or(i64::MAX)));
    key("duration", Span(heal + HEALING.max(AFTER)).to_string().into());
    key("heal", Span(heal).to_string().into());
    key("require", toml::Value::Array(["I1", "I2", "I5", "live"].map(toml::Value::from).to_vec()));
    text.push_str(&format!("\n[fleet]\ndevices = {devices}\n"));
    if let Some(profile) = &wanted.profile {
        text.push_str(&format!("profile = {}\n", toml::Value::from(profile.as_str())));
    }
    for ((at, lasts), who) in &faults {
        let who = match who.len() == devices as usize {
            true => "all".to_owned(),
            false => who.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        };
        let (at, lasts) = (Span(*at), Span(*lasts));
        text.push_str(&format!("\n[[fault]]\ndo = \"link.down\"\nat = \"{at}\"\nfor = \"{lasts}\"\nwho = \"{who}\"\n"));
    }
    Case::parse(&text, None)
        .map_err(|error| ImportError::Log(format!("what the log comes to cannot be run: {error}")))?;
    Ok(Imported { text, notes })
}

/// The fields of a row, each of which may stand in quotes.
fn fields(text: &str) -> Result<Vec<&str>, String> {
    let field = |field: &'_ str| -> Result<(), String> {
        match field.contains('"') {
            true => Err("a quote within a field: commas and quotes have no place in a log of outages".into()),
            false => Ok(()),
        }
    };
    let parts = text.split(',').map(|part| {
        let part = part.trim();
        let bare = part.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(part);
        field(bare).map(|()| bare)
    });
    parts.collect()
}

/// What somebody wrote, as far as it may be said again.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// Seconds, with up to three decimals, or a date and time as RFC 3339 has it.
fn moment(text: &str) -> Result<Moment, String> {
    let read = if text.contains(':') { rfc3339(text) } else { seconds(text) };
    read.ok_or_else(|| format!("{:?} is no time: write 2026-03-01T10:00:00Z, or seconds", short(text)))
}

fn seconds(text: &str) -> Option<Moment> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    digits(whole)?.checked_mul(1000)?.checked_add(millis(part)?)
}

/// A fraction of a second; what is finer than a millisecond is cut off.
fn millis(part: &str) -> Option<u64> {
    digits(part)?;
    let mut first: String = part.chars().take(3).collect();
    while first.len() < 3 {
        first.push('0');
    }
    digits(&first)
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain {
        text.parse().ok()
    } else {
        None
    }
}

fn rfc3339(text: &str) -> Option<Moment> {
    let date = text.get(..10)?;
    let ([year, month, day], true) =
        (numbers(date, '-', [4, 2, 2])?, matches!(text.as_bytes().get(10)?, b'T' | b't' | b' '))
    else {
        return None;
    };
    let clock = text.get(11..19)?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let rest = text.get(19..)?;
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (part, zone) = rest.split_at_checked(zone)?;
    let part = if part.is_empty() { 0 } else { millis(part.strip_prefix('.')?)? };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let [hours, minutes] = numbers(zone.get(1..)?, ':', [2, 2])?;
            let minutes = i64::try_from(hours * 60 + minutes).ok().filter(|_| hours < 24 && minutes < 60)?;
            if zone.starts_with('-') {
                -minutes
            } else {
                minutes
            }
        }
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    if year < 1970 || !(1..=*lengths.get(month)?).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let days = (year - 1970) * 365 + leaps(year - 1) - leaps(1969) + lengths.iter().take(month).sum::<u64>() + day - 1;
    let minutes = i64::try_from(days * 1440 + hour * 60 + minute).ok()?.checked_sub(offset)?;
    u64::try_from(minutes).ok()?.checked_mul(60_000)?.checked_add(second * 1000 + part)
}

/// Numbers of so many digits with this between them.
fn numbers<const N: usize>(text: &str, between: char, lengths: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(between);
    let mut numbers = [0; N];
    for (number, length) in numbers.iter_mut().zip(lengths) {
        *number = digits(parts.next().filter(|part| part.len() == length)?)?;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Act;

    fn wanted() -> Wanted {
        Wanted { name: "log".into(), seed: 7, ..Wanted::default() }
    }

    /// Who, from when, for how long, in seconds.
    type Down = (u32, u64, u64);

    /// The outages that a log comes to.
    fn outages(log: &str) -> Vec<Down> {
        let imported = import(log, &wanted()).unwrap_or_else(|error| panic!("{error}: {log}"));
        let case = Case::parse(&imported.text, None).unwrap();
        let mut downs = Vec::new();
        for entry in &case.plan().entries {
            if let Act::LinkDown { device, .. } = &entry.act {
                downs.push((*device, entry.at, u64::MAX));
            }
            if let Act::LinkUp { device, .. } = &entry.act {
                let open = downs.iter_mut().find(|(of, _, lasts)| of == device && *lasts == u64::MAX).unwrap();
                open.2 = entry.at - open.1;
            }
        }
        downs.into_iter().map(|(device, at, lasts)| (device, (at - BEFORE) / 1000, lasts / 1000)).collect()
    }

    #[test]
    fn both_forms_of_a_log_come_to_outages() {
        let cases: [(&str, &[Down]); 9] = [
            ("time,device,state\n100,gw-1,down\n160,gw-1,up\n", &[(0, 0, 60)]),
            ("device,state,time\ngw-2,down,100\ngw-1,DOWN,110\ngw-2,up,160\ngw-1,Up,200\n", &[(1, 0, 60), (0, 10, 90)]),
            ("time,state\n1.5,down\n2,up\n", &[(0, 0, 0)]),
            ("time,device,state\n2026-03-01T10:00:00Z,a,down\n2026-03-01T12:00:00.250+01:00,a,up\n", &[(0, 0, 3600)]),
            ("start,end\n0,60\n\n# a remark\n100,130\n", &[(0, 0, 60), (0, 100, 30)]),
            ("start,end,device\n0,60,b\n0,60,a\n", &[(0, 0, 60), (1, 0, 60)]),
            ("start,end,device\n50,70,a\n0,60,a\n70,80,a\n", &[(0, 0, 80)]),
            ("\u{feff}\"start\",\"end\"\r\n0,60\r\n", &[(0, 0, 60)]),
            (
                "time,device,state\n0,a,up\n10,a,down\n20,a,down\n30,a,up\n35,b,down\n40,a,up\n",
                &[(0, 0, 20), (1, 25, 5)],
            ),
        ];
        for (log, expected) in cases {
            let mut found = outages(log);
            found.sort_by_key(|(device, at, _)| (*at, std::cmp::Reverse(*device)));
            let mut expected = expected.to_vec();
            expected.sort_by_key(|(device, at, _)| (*at, std::cmp::Reverse(*device)));
            assert_eq!(found, expected, "{log}");
        }
    }

    #[test]
    fn what_is_put_right_is_said() {
        for (log, said) in [
            ("time,device,state\n20,a,up\n10,a,down\n", "1 rows that were out of order"),
            ("time,device,state\n10,a,down\n12,a,down\n20,a,up\n", "1 rows that say again"),
            ("time,device,state\n5,a,up\n10,a,down\n20,a,up\n", "1 links came up"),
            ("time,device,state\n10,a,down\n20,a,up\n30,a,down\n40,b,up\n", "1 links were down at the end"),
            ("start,end\n0,60\n30,90\n", "1 outages that overlap"),
            ("start,end\n0,60\n70,70\n", "1 outages of no length"),
        ] {
            let notes = import(log, &wanted()).unwrap().notes;
            assert!(notes.iter().any(|note| note.starts_with(said) || note.contains(said)), "{said}: {notes:?}");
        }
        let named = import("start,end,device\n0,60,pump\n", &wanted()).unwrap();
        assert!(named.text.starts_with("# gw-0 is pump\n"), "{}", named.text);
        let clean = import("start,end\n0,60\n90,95\n", &wanted()).unwrap();
        assert_eq!(clean.notes, Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        let many = format!("start,end\n{}", "0,1\n".repeat(ROWS_MAX + 1));
        let far = format!("start,end\n0,1\n0,{}\n", LENGTH_MAX);
        let scattered: String = (0..=OUTAGES_MAX).map(|n| format!("{},{}\n", n * 2, n * 2 + 1)).collect();
        let scattered = format!("start,end\n{scattered}");
        for (log, says) in [
            ("", "the log is empty"),
            ("\n# nothing\n", "the log is empty"),
            ("time,device,state\n", "tells of no outage"),
            ("time,device,state\n1,a,up\n", "tells of no outage"),
            ("time,device\n1,a\n", "line 1: the first line names the columns"),
            ("100,gw-1,down\n", "line 1: the first line names the columns"),
            ("time,state,start,end\n", "line 1: the first line names the columns"),
            ("time,state,colour\n", "line 1: the column \"colour\""),
            ("time,device,state\n1,a,down\n2,a\n", "line 3: 2 fields"),
            ("time,device,state\n1,a,down\n2,a,sideways\n", "line 3: the state \"sideways\""),
            ("time,device,state\n1,,down\n", "line 2: no device"),
            ("time,device,state\n5,a,down\n5,a,up\n", "line 3: up and down at one time"),
            ("start,end\n5,4\n", "line 2: the outage ends before it begins"),
            ("start,end\n5,\n", "line 2: the outage has no end"),
            ("start,end\n-5,4\n", "line 2: \"-5\" is no time"),
            ("start,end\n1e3,4\n", "line 2: \"1e3\" is no time"),
            ("start,end\n99999999999999999999,4\n", "is no time"),
            ("start,end\n2026-02-29T10:00:00Z,2026-03-01T10:00:00Z\n", "line 2: \"2026-02-29T10:00:00Z\" is no time"),
            ("start,end\n2026-02-28T24:00:00Z,2026-03-01T10:00:00Z\n", "is no time"),
            ("start,end\n2026-02-28T10:00:00,2026-03-01T10:00:00Z\n", "is no time"),
            ("start,end\n0,\"1\"2\"\n", "line 2: a quote within a field"),
            (&many, "more than 100000 rows"),
            (&far, "more than 366 days"),
            (&scattered, "20001 outages are more than"),
        ] {
            let refused = import(log, &wanted()).expect_err(says).to_string();
            assert!(refused.contains(says), "{refused} does not say {says}");
        }
        let two = "start,end,device\n0,60,a\n0,60,b\n";
        let few = import(two, &Wanted { devices: Some(1), ..wanted() }).unwrap_err().to_string();
        assert!(few.contains("raise --devices"), "{few}");
        let unknown = import(two, &Wanted { profile: Some("toaster".into()), ..wanted() }).unwrap_err().to_string();
        assert!(unknown.contains("toaster"), "{unknown}");
        let five = import(two, &Wanted { devices: Some(5), ..wanted() }).unwrap().text;
        assert!(five.contains("devices = 5") && five.contains("who = \"0,1\""), "{five}");
    }

    #[test]
    fn dates_are_read_as_they_are() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-03-01T00:00:00Z", Some(1_772_323_200_000)),
            ("2024-02-29 23:59:59.9999Z", Some(1_709_251_199_999)),
            ("2026-03-01T01:30:00+01:30", Some(1_772_323_200_000)),
            ("2026-02-28T22:00:00-02:00", Some(1_772_323_200_000)),
            ("1969-12-31T23:59:59Z", None),
            ("1970-01-01T00:00:00+01:00", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-00-01T00:00:00Z", None),
            ("2026-03-01T00:00:00+25:00", None),
            ("2026-03-01T00:00:00Zx", None),
            ("2026-03-01T00:00:0éZ", None),
        ] {
            assert_eq!(rfc3339(text), expected, "{text}");
        }
    }

    #[test]
    fn no_log_makes_the_reader_panic() {
        let whole = "time,device,state\n2026-03-01T10:00:00Z,gw-1,down\n1772359260.5,\"gw-2\",up\n";
        let mut rng = crate::random::stream(1, "log", "mutations");
        for _ in 0..5000 {
            let mut text: Vec<char> = whole.chars().collect();
            for _ in 0..=crate::random::below(&mut rng, 4) {
                let at = crate::random::below(&mut rng, text.len() as u64) as usize;
                let other = text[crate::random::below(&mut rng, text.len() as u64) as usize];
                match crate::random::below(&mut rng, 3) {
                    0 => text[at] = other,
                    1 => text.insert(at, 'é'),
                    _ => drop(text.remove(at)),
                }
            }
            let _ = import(&text.into_iter().collect::<String>(), &wanted());
        }
    }
}
