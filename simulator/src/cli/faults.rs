//! `hardtack-sim faults`.

use std::process::ExitCode;

use hardtack_simulator::fault::{entries, Entry, KEYS, KEYS_OF_ALL};

use super::{print, Output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these, with what each of their keys says: their names, or how these begin, like `link`.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How to tell it.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn faults(args: &Args) -> Result<ExitCode, String> {
    let begins = |name: &str| args.names.iter().any(|begin| name.starts_with(begin.as_str()));
    let chosen: Vec<Entry> = entries().filter(|entry| args.names.is_empty() || begins(entry.name)).collect();
    let is_any = |begin: &&String| chosen.iter().any(|entry| entry.name.starts_with(begin.as_str()));
    if let Some(none) = args.names.iter().find(|begin| !is_any(begin)) {
        return Err(format!("no fault is called {none:?}: `hardtack-sim faults` shows all"));
    }
    match args.output {
        Output::Json => chosen.iter().for_each(|entry| print(&serde_json::json!(entry).to_string())),
        Output::Text if args.names.is_empty() => print(&all(&chosen)),
        Output::Text => chosen.iter().for_each(|entry| print(&one(entry))),
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each, family by family.
fn all(entries: &[Entry]) -> String {
    let mut text = String::new();
    for family in entries.chunk_by(|one, next| one.family == next.family) {
        text.push_str(&format!("{}\n", family[0].family));
        for Entry { name, says, keys, whats, .. } in family {
            text.push_str(&format!("  {name:<20} {says}\n"));
            let keys: Vec<String> = keys.iter().map(|key| with_values(key, whats)).collect();
            if !keys.is_empty() {
                text.push_str(&format!("  {:<20}   {}\n", "", keys.join(", ")));
            }
        }
    }
    text + "Each has `at` too, and may have `every` with `until`, and `jitter`; what does not befall the whole fleet may have \
            `who`, which says what `it` is. Of its own keys those with a ? may be left out. What a fault's keys say: \
            `hardtack-sim faults NAME`"
}

/// A key, and what it can be where that is one of a few.
fn with_values(key: &str, whats: &[(&str, &str)]) -> String {
    let values: Vec<&str> = whats.iter().map(|(what, _)| *what).collect();
    match key {
        "what" => format!("what ({})", values.join(" ")),
        key => key.to_owned(),
    }
}

/// All there is to say of one.
fn one(Entry { name, says, takes_who, keys, whats, .. }: &Entry) -> String {
    let own = keys.iter().flat_map(|own| {
        let says = KEYS.into_iter().find(|(key, _)| own.trim_end_matches('?') == *key);
        says.map(|(_, says)| (*own, says))
    });
    let of_all = KEYS_OF_ALL.into_iter().filter(|(key, _)| *takes_who || *key != "who?");
    let keys = of_all.chain(own).map(|(key, says)| format!("  {key:<12} {says}\n"));
    let whats = whats.iter().map(|(what, says)| format!("  what = {what:?}: {says}\n"));
    format!("{name}: {says}\n{}", keys.chain(whats).collect::<String>().trim_end())
}
