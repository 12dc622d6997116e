//! What a run found, in the words of whoever operates the fleet.
//!
//! Owns: a title and a sentence for each property, a phrase for each fault, the verdict, lengths of time and amounts.
//! Never: computes anything that is not shown.
//! Read next: `html.rs`.

use super::{Property, Report, Status};
use crate::fault::{is_of_the_fleet, Fault, Who};

/// What a property promises: in a few words, and what it means where it breaks.
pub(crate) fn property(id: &str) -> (&'static str, &'static str) {
    match id {
        "I1" => ("Written down before it is answered", "A caller heard a decision that a power cut could have erased."),
        "I2" => ("No decision is lost silently", "A decision never reached the collector, and no signed gap says so."),
        "I3" => ("No token outlives its life", "A token was honoured for longer than it was made for."),
        "I3.floor" => {
            ("Past its proven end a token is refused", "A token was allowed although its end was proven past.")
        }
        "I3.strict" => ("Strict requests end on the dot", "A strict request was allowed after its token's true end."),
        "I4" => ("What a device knows to be revoked stays refused", "A device allowed what it knew to be revoked."),
        "I4.bounded" => (
            "Word of a revocation may lag only so far",
            "A device allowed for longer than the policy lets it go without word.",
        ),
        "I4.dropped" => (
            "What was dropped from the list stays over",
            "A token came back once its revocation was dropped from the list.",
        ),
        "I4.emergency" => ("Emergency revocations hold", "A device allowed what an emergency key had revoked."),
        "I4.ended" => ("Finished tasks stay finished", "A token was allowed after its task had ended."),
        "I4.stale" => {
            ("A stale list stops risky requests", "A risky request was allowed on a revocation list that was too old.")
        }
        "I5" => ("Nothing goes back in time", "A device's version, time or position went back."),
        "I5.budget" => ("Spent uses stay spent", "A token was used more often than it may be."),
        "I5.evidence" => ("Old and forged messages leave evidence", "A device refused a message and recorded nothing."),
        "I5.position" => {
            ("Every device stands where the fleet signed", "A device holds a list that the fleet did not sign.")
        }
        "I6" => ("Nobody gets more than they were given", "A token allowed what it has no right to."),
        "I6.child" => ("Narrowed tokens are narrower", "A narrowed token allowed more than its parent."),
        "I6.exchange" => (
            "A planner gives away only what it may",
            "A planner got more than steps of its own task for those whom its grant names.",
        ),
        "I6.sibling" => (
            "What a device narrows stays within what it was made of",
            "A narrowed credential allowed more, to somebody else, or for longer than it may, or was made where none may be.",
        ),
        "I6.step" => (
            "A step is used once, by its executor, for its part",
            "A step was used twice, by somebody else, for more than it is for, or after its task.",
        ),
        "I7" => ("In doubt a device denies, and keeps what works", "A device dropped its only credential."),
        "I8.sealed" => ("No broker reads the audit", "Audit went over the broker unsealed."),
        "I9" => ("Messages have a limit", "A message was larger than any may be."),
        "I9.disk" => ("The audit's disk share is kept", "The audit took more disk than it may."),
        "I9.reserve" => ("Room for denials is kept", "A request was refused for want of room that was there."),
        "I10" => ("A cold start decides alone", "After a start without network a good request was denied."),
        "I11" => ("Every decision names who answers for it", "A record does not name owner, grant, task or chain."),
        "available" => ("Good requests are allowed", "Good requests were denied."),
        "box.boots" => ("The fallback ends after its boots", "A fallback grant served more boots than it may."),
        "box.life" => ("Fallback tasks end in time", "A task outlived what its fallback grant lets it have."),
        "box.offline" => (
            "The fallback ends after its time alone",
            "A fallback grant served for longer without contact than it may.",
        ),
        "box.uses" => ("The fallback ends after its uses", "A fallback grant was used more often than it may be."),
        "caught_up" => ("The broker alone brings a device up to date", "With the service away a device stayed behind."),
        "clock" => ("The device's time is right within its bounds", "A device believed a time that cannot be."),
        "detected" => ("Damage is noticed and locks", "A device went on after its storage was damaged or restored."),
        "emergency.ends" => ("Emergencies end", "An emergency rule was in force past its end."),
        "herd" => ("A fleet comes back in an orderly way", "Too many devices connected within one second."),
        "identity" => (
            "Who initiated a task is proved, and in time",
            "A task began with an identity document that does not count, or outlived it, or a good one was refused.",
        ),
        "live" => {
            ("After the faults everything recovers", "A device did not come back to work once the faults were over.")
        }
        "policy" => (
            "What the policy says of arguments counts",
            "A request was allowed although the policy has something against its arguments, or denied although it has not.",
        ),
        _ => ("", ""),
    }
}

/// What a fault does, to be followed by when; nothing of one that only its family has words for.
pub(crate) fn exact(name: &str) -> &'static str {
    match name {
        "broker.delay" => "the broker gives signed statements out late",
        "broker.hostile" => "the broker drops, doubles, delays and forges messages",
        "broker.lose" => "the broker is away and comes back having lost all that it had kept",
        "broker.replay" => "the broker sends old messages again",
        "broker.restart" => "the broker is away",
        "wire.acknowledge" => "the broker acknowledges what nobody sent (wire level)",
        "wire.garbage" => "the broker writes bytes that are no packet (wire level)",
        "wire.grant" => "the broker grants what nobody asked for (wire level)",
        "wire.large" => "the broker writes a packet that is larger than may be (wire level)",
        "wire.reuse" => "the broker gives two messages one packet id (wire level)",
        "broker.restore" => "the broker goes back to an old backup",
        "broker.withhold" => "the broker keeps signed statements back",
        "clock.drift" => "the clock's oscillator changes its rate",
        "clock.freeze" => "the wall clock stands still",
        "clock.step" => "the wall clock jumps",
        "clock.strobe" => "the wall clock jumps to and fro all the time",
        "disk.full" => "its file system is full",
        "disk.readonly" => "its file system is read-only",
        "era.rotten" => "a bit of its audit flips",
        "broker.feed leap" => "a stolen feed key signs a head that leaps ahead",
        "group.move" => "the operator moves it to another group",
        "image.clone" => "a copy of its storage runs elsewhere",
        "image.rollback" => "its storage is restored from an old image",
        "link.down" => "the link is down",
        "link.half_open" => "open connections swallow everything, and nobody is told",
        "link.slow" => "what goes over the link takes longer",
        "power.cut" => "the power fails",
        "process.downgrade" => "a newer version has left its own format, and this one is started over it",
        "process.stop" => "the agent's process gets no time",
        "process.upgrade" => "another firmware takes over its state",
        "process.restart" => "the agent is killed",
        "reboot" => "it reboots",
        "revoke" => "the operator revokes",
        "revoke.storm" => "the operator revokes many tokens at once",
        "service.ahead" => "the service that answers it has a clock that is ahead",
        "service.stop" => "the fleet's service is away",
        "suspend" => "nothing runs, and nobody on it notices",
        "tail.forged" => "somebody rewrites the unsigned end of its audit",
        _ => "",
    }
}

/// What a fault does, to be followed by when.
pub(crate) fn fault(name: &str) -> &'static str {
    let family = [
        ("anchor.", "its anchor is damaged"),
        ("broker.ack", "the broker tampers with an acknowledgement"),
        ("broker.emergency", "the broker keeps another emergency statement"),
        ("broker.feed", "the broker hands out a head that must be refused"),
        ("broker.forget", "the broker loses some of what it had kept"),
        ("emergency.thief", "a stolen emergency key is used"),
        ("emergency", "an operator revokes with an emergency key"),
        ("file.rotten", "a bit of a state file flips"),
        ("flood", "a program asks as fast as it can"),
        ("key.", "the root keys put a new key in the place of one"),
        (
            "narrowed.",
            "somebody tries to get more by narrowing a credential, or by what was narrowed, than is due to him",
        ),
        ("planner.", "a planner that was taken over asks for more than is due to it"),
        ("step.", "somebody tries to get more by a step than that is for"),
        ("disk.lies", "syncs of a part of its state folder do nothing, and say that all is well"),
        ("disk.sync", "syncs of a part of its state folder fail"),
        ("time", "somebody carries a clock reset to it"),
    ];
    match exact(name) {
        "" => family.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or("", |(_, phrase)| phrase),
        phrase => phrase,
    }
}

/// A fault as one line: what, to whom, when, how often.
pub(crate) fn fault_line(of: &Fault) -> String {
    let name = of.kind.name();
    let phrase = match fault(name) {
        "" => name,
        phrase => phrase,
    };
    let when = &of.when;
    let mut line = match when.every {
        Some(every) => format!("From {} to {}, every {}", span(when.at), span(when.until), span(every)),
        None => format!("At {}", span(when.at)),
    };
    if when.jitter > 0 {
        line.push_str(&format!(" (each up to {} later)", span(when.jitter)));
    }
    line.push_str(&format!(": {phrase}"));
    match (of.lasts_at_most(), of.longer) {
        (0, _) => {}
        (most, 0) => line.push_str(&format!(", for {}", span(most))),
        (most, longer) => line.push_str(&format!(", for {} to {}", span(most - longer), span(most))),
    }
    if !is_of_the_fleet(name) {
        line.push_str(&match &of.who {
            Who::All => " — on every gateway".to_owned(),
            Who::Some { count: 1, .. } => " — on one gateway, by chance".to_owned(),
            Who::Some { count, of } => format!(" — on {count} of {} gateways, by chance", of.len()),
            Who::These(numbers) => format!(" — on {}", gateways(numbers)),
        });
    }
    line
}

/// These gateways, in ascending order; of three and more in a row the first and the last.
fn gateways(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    let names = runs.flat_map(|run| match run {
        [first, _, .., last] => vec![format!("gw-{first} to gw-{last}")],
        few => few.iter().map(|number| format!("gw-{number}")).collect(),
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The verdict: a headline, and what stands behind it.
pub(crate) fn verdict(report: &Report, devices: u32, duration: u64) -> (String, String) {
    let count = |status: Status| report.properties.iter().filter(|property| property.status == status).count();
    let (passed, vacuous) = (count(Status::Pass), count(Status::Vacuous));
    let broken: Vec<&Property> = report.properties.iter().filter(|property| property.status == Status::Fail).collect();
    let world = format!(
        "{}, {} of simulated time, {} decisions",
        plural(u64::from(devices), "gateway"),
        span(duration),
        grouped(report.decisions),
    );
    match report.verdict() {
        Status::Pass => {
            let promises = plural(passed as u64, "promise");
            let rest = match vacuous {
                0 => String::new(),
                _ => format!(" {vacuous} more were never put to the test here, and count for nothing."),
            };
            let head = "Your fleet kept every promise that was tested".to_owned();
            (head, format!("{world}. {promises} held each time they were tried.{rest}"))
        }
        Status::Fail => {
            let first = broken.iter().map(|property| match self::property(property.id).1 {
                "" => format!("{} does not hold.", property.id),
                sentence => sentence.to_owned(),
            });
            let head = match broken.len() {
                1 => "Your fleet broke a promise".to_owned(),
                many => format!("Your fleet broke {many} promises"),
            };
            (head, format!("{} ({world}.)", first.collect::<Vec<_>>().join(" ")))
        }
        Status::Vacuous => {
            let untried: Vec<&str> = report
                .properties
                .iter()
                .filter(|p| p.status == Status::Vacuous && report.require.iter().any(|id| id == p.id))
                .map(|p| p.id)
                .collect();
            let mut why = Vec::new();
            if !untried.is_empty() {
                why.push(format!("the scenario asks for {}, which nothing put to the test", untried.join(", ")));
            }
            if !report.idle.is_empty() {
                why.push(format!("these faults had no effect: {}", report.idle.join(", ")));
            }
            let head = "Nothing broke, but not everything was tested".to_owned();
            (head, format!("{world}. This is no pass: {}.", why.join("; ")))
        }
    }
}

/// A length of time as a person says it, to two units.
pub(crate) fn span(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms} ms");
    }
    const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let Some(first) = UNITS.iter().position(|(unit, _)| ms >= *unit) else { return format!("{ms} ms") };
    let mut rest = ms;
    let mut parts = Vec::new();
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        if rest / unit > 0 {
            parts.push(format!("{} {name}", rest / unit));
        }
        rest %= unit;
    }
    parts.join(" ")
}

/// An amount of bytes as a person says it.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} B"),
    }
}

/// A number with its thousands set apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something.
pub(crate) fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// The moment and the gateway that a witness names, in milliseconds of the run's time.
pub(crate) fn place_of(witness: &str) -> (Option<u64>, Option<u32>) {
    let moment = || {
        let (days, rest) = witness.strip_prefix("at ")?.split_once('d')?;
        let (clock, _) = rest.split_once(": ")?;
        let (clock, ms) = clock.split_once('.')?;
        let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
        let mut parts = clock.split(':').map(number);
        let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
        let hours = number(days)? * 24 + hours;
        Some(((hours * 60 + minutes) * 60 + seconds) * 1000 + number(ms)?)
    };
    let gateway = witness.split("gw-").nth(1).and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    });
    (moment(), gateway)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::PROPERTIES;

    #[test]
    fn every_property_has_words_of_its_own() {
        let mut titles: Vec<&str> = PROPERTIES.iter().map(|id| property(id).0).collect();
        assert!(titles.iter().all(|title| !title.is_empty()), "{titles:?}");
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), PROPERTIES.len());
    }

    #[test]
    fn lengths_amounts_and_numbers() {
        for (ms, due) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (61_000, "1 min 1 s"),
            (86_400_000, "1 d"),
            (90_000_000, "1 d 1 h"),
            (86_461_000, "1 d"),
        ] {
            assert_eq!(span(ms), due);
        }
        assert_eq!((bytes(1023), bytes(1536)), ("1023 B".to_owned(), "1.5 KiB".to_owned()));
        assert_eq!((grouped(7), grouped(1_234_567)), ("7".to_owned(), "1,234,567".to_owned()));
    }

    #[test]
    fn a_witness_names_its_moment_and_its_gateway() {
        let at = |text: &str| place_of(text);
        assert_eq!(at("at 1d02:03:04.005: gw-12 allowed x"), (Some(93_784_005), Some(12)));
        assert_eq!(at("at 0d00:00:00.000: the fleet"), (Some(0), None));
        assert_eq!(at("nothing of the kind gw-"), (None, None));
        assert_eq!(at("at 99999999999999999999d00:00:00.0: gw-99999999999"), (None, None));
    }
}
