//! A run, or two of one plan side by side, as one HTML file that needs nothing else.
//!
//! Owns: the page with its tables, the numbers behind its pictures, and the bounds that keep it small.
//! Never: lets text of a scenario or a trace be taken for markup; fetches anything: the page forbids that to itself.
//! Read next: `page.js`, which draws; `page.css`.

use std::fmt::Write;

use serde_json::{json, Value};

use super::marks::{shade, Mark, Whom};
use super::record::{thin, Changes, Lane, Link, State};
use super::shown::{Shown, Small, Source};
use super::words::{bytes, fault_line, grouped, place_of, plural, property, span, verdict};
use super::{Property, Status};
use crate::fleet_answers::Burned;

/// Gateways that have a lane, at the most.
const LANES_MAX: usize = 200;
/// Changes of state and link that one page holds,
const CHANGES_MAX: usize = 36_000;
/// and marks.
const MARKS_MAX: usize = 12_000;
/// Stretches of one kind that shade the curves.
const SHADES_MAX: usize = 240;
/// Lines and characters of a plan that are printed.
const LINES_MAX: usize = 200;
const TEXT_MAX: usize = 120_000;
/// Lengths of stretches, shortest first, in milliseconds: the first is taken with which a page is small enough.
const GRAINS: [u64; 9] = [0, 1000, 10_000, 60_000, 300_000, 900_000, 3_600_000, 14_400_000, 86_400_000];
/// The page's times are in tenths of a second.
const TICK: u64 = 100;

/// The page. The first of `shown` is the run, and a second the same plan under another profile; `small` is what the first
/// breaks, made small.
pub fn page(source: &Source, shown: &[Shown], small: Option<&Small>) -> String {
    let Some(first) = shown.first() else { return String::new() };
    let mut body = String::new();
    header(&mut body, source, first);
    if let Some(small) = small {
        smallest(&mut body, small);
    }
    numbers(&mut body, shown);
    timeline(&mut body, shown);
    properties(&mut body, shown);
    plan(&mut body, source, first);
    facts(&mut body, shown);
    let data = embed(&data(shown));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
        <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
        script-src 'unsafe-inline'\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
        <title>{title}</title>\n<style>\n{css}</style>\n</head>\n<body>\n{body}\
        <script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{js}</script>\n</body>\n</html>\n",
        title = escape(&format!("{}: {} — hardtack-sim", first.scenario.name, first.report.verdict().name())),
        css = include_str!("page.css"),
        js = include_str!("page.js"),
    )
}

/// Text as it may stand in an element or in a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// JSON as it may stand in a script element: nothing in it ends or opens one.
fn embed(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

macro_rules! put {
    ($to:expr, $($arg:tt)*) => {
        // Writing to a string cannot fail.
        write!($to, $($arg)*).unwrap_or(())
    };
}

fn header(body: &mut String, source: &Source, first: &Shown) {
    let (scenario, report) = (&first.scenario, &first.report);
    let status = report.verdict();
    let (headline, sentence) = verdict(report, scenario.fleet.devices, scenario.duration);
    put!(body, "<header class=\"top\"><p class=\"brand\"><b>hardtack</b> fleet simulation</p>");
    put!(
        body,
        "<button type=\"button\" id=\"theme\" title=\"Light, dark, or as the system is\">Theme</button></header>\n"
    );
    put!(body, "<main>\n<h1>{}</h1>\n", escape(&scenario.name));
    if !source.about.trim().is_empty() {
        put!(body, "<p class=\"about\">{}</p>\n", escape(source.about.trim()));
    }
    put!(body, "<section class=\"verdict {}\" aria-label=\"Verdict\">\n", status.name());
    put!(body, "<div class=\"seal\" aria-hidden=\"true\">{}</div><div>", seal(status));
    put!(body, "<h2>{}</h2><p>{}</p>", escape(&headline), escape(&sentence));
    for property in report.properties.iter().filter(|property| property.status == Status::Fail) {
        if let Some(witness) = &property.witness {
            put!(body, "<p class=\"witness\">{} {}</p>", escape(witness), jump(first, witness, 0));
        }
    }
    if !source.command.is_empty() {
        put!(body, "{}", command("See it again", &source.command));
    }
    put!(body, "</div></section>\n");
}

/// A command that can be copied.
fn command(what: &str, command: &str) -> String {
    let command = escape(command);
    format!(
        "<div class=\"command\"><span>{what}</span><code>{command}</code>\
        <button type=\"button\" class=\"copy\">Copy</button></div>"
    )
}

/// What is left of the plan when all that has no part in it is gone.
fn smallest(body: &mut String, small: &Small) {
    let Small { found, story, command: again } = small;
    let id = found.breach.property();
    put!(body, "<section class=\"smallest\" aria-labelledby=\"smallest\">");
    put!(body, "<h2 id=\"smallest\">The smallest plan that breaks it</h2>\n");
    let (from, to, runs) = (found.from, found.to, grouped(found.runs));
    let end = if found.minimal {
        "Nothing more can be left out."
    } else {
        "The time was up; with a longer --shrink-for more of it may go."
    };
    put!(
        body,
        "<p class=\"note\">All that <code>{}</code> does not need was left out and tried again, {runs} times: \
        from {from} to <b>{to}</b>. {}</p>\n",
        escape(id),
        escape(end)
    );
    put!(body, "<ol class=\"story\">");
    for line in story {
        let (when, what) = line.trim_start().split_once("  ").unwrap_or(("", line));
        let end = if when == id { " class=\"end\"" } else { "" };
        put!(body, "<li{end}><span>{}</span> {}</li>", escape(when), escape(what));
    }
    put!(body, "</ol>\n{}", command("Run it", again));
    put!(body, "<details><summary>As TOML</summary><pre>{}</pre></details></section>\n", cut(&found.to_toml()));
}

/// A file's text, as much of it as a page holds, as it may stand in an element.
fn cut(text: &str) -> String {
    let end = text.char_indices().nth(TEXT_MAX).map_or(text.len(), |(at, _)| at);
    let rest = if end < text.len() { "\n# … the rest is in the file" } else { "" };
    format!("{}{rest}", escape(&text[..end]))
}

const fn seal(status: Status) -> &'static str {
    match status {
        Status::Pass => "✓",
        Status::Fail => "✕",
        Status::Vacuous => "?",
    }
}

/// A button that shows in the lanes what a witness names, if it names a moment.
fn jump(of: &Shown, witness: &str, side: usize) -> String {
    let (Some(at), gateway) = place_of(witness) else { return String::new() };
    let at = at.saturating_sub(of.scenario.start) / TICK;
    let gateway = gateway.map_or(String::new(), |number| format!(" data-gateway=\"{number}\""));
    format!("<button type=\"button\" class=\"jump\" data-at=\"{at}\" data-side=\"{side}\"{gateway}>Show in the lanes</button>")
}

/// A figure: its name, its value per run, and what it means.
struct Figure {
    name: &'static str,
    values: Vec<(String, String)>,
    means: &'static str,
}

fn figures(shown: &[Shown]) -> Vec<Figure> {
    let figure = |name, means, value: &dyn Fn(&Shown) -> Option<(String, String)>| {
        let values: Option<Vec<(String, String)>> = shown.iter().map(value).collect();
        values.map(|values| Figure { name, values, means })
    };
    let minutes = |ms: u64| {
        let tenths = (ms + 3000) / 6000;
        format!("{}.{}", grouped(tenths / 10), tenths % 10)
    };
    let figures = [
        figure(
            "Exposure",
            "Time in which a running gateway held a revoked token that had not ended, and had not heard. An upper bound.",
            &|of| {
                let answers = &of.report.answers;
                let sub = format!("{} allowed in that time", plural(answers.allowed_revoked, "request"));
                (answers.revocations > 0).then(|| (format!("{} device-min", minutes(answers.exposure_ms)), sub))
            },
        ),
        figure("Revocation latency", "From the operator's word to the gateway's disk: half of them, and 99 of 100.", &|of| {
            let answers = &of.report.answers;
            let rest = match answers.revocations_pending {
                0 => String::new(),
                many => format!(" · {} not there yet", grouped(many)),
            };
            answers.revocation_latency.map(|latency| {
                let sub = format!("p99 {} · {} delivered{rest}", span(latency.p99_ms), grouped(latency.count));
                (format!("p50 {}", span(latency.p50_ms)), sub)
            })
        }),
        figure("Denied legitimate operations", "Requests that nothing spoke against, and that were denied.", &|of| {
            let answers = &of.report.answers;
            (answers.legitimate > 0).then(|| {
                let share = 100.0 * answers.denied_legitimate as f64 / answers.legitimate as f64;
                let sub = format!("{share:.2} % of {} such requests", grouped(answers.legitimate));
                (grouped(answers.denied_legitimate), sub)
            })
        }),
        figure("Fallback budget burned", "Of the uses that a grant has, those that were used of the one that was used most.", &|of| {
            of.report.answers.burned.map(|burned| {
                let Burned { uses, most_uses, uses_max, longest_alone_ms, offline_max_ms, most_boots, boots_max } = burned;
                let share = 100.0 * most_uses as f64 / uses_max.max(1) as f64;
                let (uses, alone, whole) = (grouped(uses), span(longest_alone_ms), span(offline_max_ms));
                let sub = format!("{uses} uses in all · {alone} of {whole} alone · {most_boots} of {boots_max} boots");
                (format!("{share:.2} %"), sub)
            })
        }),
        figure("Peak reconnect rate", "Gateways that connected again within one second.", &|of| {
            of.report.answers.peak_reconnects.map(|peak| {
                let share = format!("of {} · at {}", plural(u64::from(of.scenario.fleet.devices), "gateway"), span(peak.at_ms));
                (format!("{} / s", grouped(u64::from(peak.count))), share)
            })
        }),
        figure("Uplink", "Topics and payloads, without what MQTT, TLS and TCP add.", &|of| {
            let answers = &of.report.answers;
            let sub = format!("{} per device and day · {} down", per_day(of, answers.uplink_bytes), bytes(answers.downlink_bytes));
            Some((bytes(answers.uplink_bytes), sub))
        }),
        figure("Flash", "Files, records and segments as handed to the disk, without what store and file system add.", &|of| {
            let written = of.report.answers.flash_bytes;
            Some((bytes(written), format!("{} per device and day", per_day(of, written))))
        }),
        figure("Audit loss", "Records that gateways themselves counted as lost, in signed gaps.", &|of| {
            let answers = &of.report.answers;
            let unknown = match answers.audit_lost_unknown {
                0 => String::new(),
                many => format!(" · {} of unknown length", plural(many, "gap")),
            };
            let sub = format!("{} still on gateways{unknown}", grouped(answers.audit_pending));
            Some((plural(answers.audit_lost, "record"), sub))
        }),
        figure("Decisions", "What programs on the gateways heard.", &|of| {
            let answers = &of.report.answers;
            let sub = format!("{} allowed · {} denied", grouped(answers.allowed), grouped(answers.denied));
            Some((grouped(answers.allowed + answers.denied), sub))
        }),
    ];
    figures.into_iter().flatten().collect()
}

fn per_day(of: &Shown, count: u64) -> String {
    let device_ms = u128::from(of.scenario.duration) * u128::from(of.scenario.fleet.devices);
    let daily = u128::from(count) * 86_400_000 / device_ms.max(1);
    bytes(u64::try_from(daily).unwrap_or(u64::MAX))
}

fn numbers(body: &mut String, shown: &[Shown]) {
    let title = if shown.len() > 1 { "What if: two profiles, one plan" } else { "In numbers" };
    put!(body, "<section aria-labelledby=\"numbers\"><h2 id=\"numbers\">{title}</h2>\n");
    if let [a, b] = shown {
        put!(body, "<ul class=\"sides\">");
        for (of, letter) in [(a, "A"), (b, "B")] {
            let status = of.report.verdict().name();
            let (headline, _) = verdict(&of.report, of.scenario.fleet.devices, of.scenario.duration);
            put!(
                body,
                "<li><b class=\"letter\">{letter}</b> <code>{}</code> <span class=\"pill {status}\">{status}</span> {}</li>",
                escape(&of.label),
                escape(&headline)
            );
        }
        put!(body, "</ul>\n");
    }
    if let Some(many) = shown.iter().map(|of| of.report.runs).find(|runs| *runs > 1) {
        put!(
            body,
            "<p class=\"note\">This scenario is {} runs, each with the power cut at another point. Promises are judged over \
            all of them; numbers and pictures are of the first, in which it is not cut there.</p>\n",
            grouped(many)
        );
    }
    put!(body, "<div class=\"cards\">");
    for Figure { name, values, means } in figures(shown) {
        put!(body, "<article class=\"card\" title=\"{}\"><h3>{}</h3>", escape(means), escape(name));
        for ((value, sub), letter) in values.iter().zip(["A", "B"]) {
            let letter = if values.len() > 1 { format!("<b class=\"letter\">{letter}</b> ") } else { String::new() };
            put!(body, "<p class=\"value\">{letter}{}</p><p class=\"sub\">{}</p>", escape(value), escape(sub));
        }
        put!(body, "<p class=\"means\">{}</p></article>", escape(means));
    }
    put!(body, "</div>\n");
    for (of, letter) in shown.iter().zip(["A", "B"]) {
        let mut denied: Vec<_> = of.recording.reasons.iter().filter(|(_, allow, _)| !allow).collect();
        denied.sort_by_key(|(name, _, count)| (std::cmp::Reverse(*count), *name));
        if !denied.is_empty() {
            let letter = if shown.len() > 1 { format!("<b class=\"letter\">{letter}</b> ") } else { String::new() };
            let reason = |(name, _, count): &&(&str, bool, u64)| {
                format!("<span>{} {}</span>", escape(&name.replace('_', " ")), grouped(*count))
            };
            let reasons: Vec<String> = denied.iter().map(reason).collect();
            put!(body, "<p class=\"why\">{letter}<b>Why requests were denied:</b> {}</p>\n", reasons.join(" · "));
        }
    }
    put!(body, "</section>\n");
}

fn timeline(body: &mut String, shown: &[Shown]) {
    put!(body, "<section id=\"timeline\" aria-labelledby=\"over-time\"><h2 id=\"over-time\">Over time</h2>\n");
    put!(
        body,
        "<div class=\"tools\" role=\"toolbar\" aria-label=\"Time\"><button type=\"button\" data-do=\"in\" aria-label=\"Zoom in\">+</button>\
        <button type=\"button\" data-do=\"out\" aria-label=\"Zoom out\">−</button>\
        <button type=\"button\" data-do=\"left\" aria-label=\"Earlier\">←</button>\
        <button type=\"button\" data-do=\"right\" aria-label=\"Later\">→</button>\
        <button type=\"button\" data-do=\"all\">Whole run</button><output id=\"range\"></output></div>\n"
    );
    put!(body, "<div id=\"curves\"{}></div>\n", if shown.len() > 1 { " class=\"two\"" } else { "" });
    let (devices, lanes) = (shown[0].scenario.fleet.devices as usize, LANES_MAX);
    put!(body, "<div class=\"lanes-head\"><h3>Gateway by gateway</h3>");
    if shown.len() > 1 {
        put!(body, "<div id=\"which\" role=\"group\" aria-label=\"Which run\"></div>");
    }
    put!(body, "</div>\n<div id=\"legend\" class=\"legend\"></div>\n");
    if devices > lanes {
        put!(
            body,
            "<p class=\"note\">{lanes} of {} gateways: those that a witness names, those that allowed something revoked, \
            and those to which most happened. The curves count all.</p>\n",
            grouped(devices as u64)
        );
    }
    put!(
        body,
        "<div id=\"lanes\" tabindex=\"0\" role=\"application\" aria-label=\"Lanes of gateways over time. Arrow keys move, \
        plus and minus zoom, N and P step through what happened to the gateway, 0 shows the whole run.\" \
        aria-describedby=\"said\"><canvas></canvas><div class=\"spacer\"></div></div>\n\
        <p id=\"said\" class=\"said\" aria-live=\"polite\">Drag to pan, pinch or Ctrl + wheel to zoom, double-click to zoom in. \
        With the keyboard: <kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd>, <kbd>+</kbd> <kbd>−</kbd>, <kbd>0</kbd> for \
        the whole run, <kbd>N</kbd> <kbd>P</kbd> for the next and the previous event.</p>\n\
        <noscript><p class=\"note\">The pictures need JavaScript; all tables are here without it.</p></noscript></section>\n"
    );
}

fn properties(body: &mut String, shown: &[Shown]) {
    put!(body, "<section aria-labelledby=\"promises\"><h2 id=\"promises\">Promises</h2>\n");
    let first = &shown[0];
    let other = |id: &str| shown.get(1).and_then(|of| of.report.properties.iter().find(|property| property.id == id));
    let worst = |of: &Property| other(of.id).map_or(of.status, |other| worse(of.status, other.status));
    let mut due: Vec<&Property> = first.report.properties.iter().collect();
    due.sort_by_key(|of| std::cmp::Reverse(rank(worst(of))));
    let untried = due.iter().filter(|of| worst(of) == Status::Vacuous).count();
    put!(body, "<div class=\"scroll\"><table class=\"properties\"><thead><tr><th>Promise</th><th>Result</th><th class=\"n\">Tried</th>");
    if shown.len() > 1 {
        put!(body, "<th>Result B</th><th class=\"n\">Tried B</th>");
    }
    put!(body, "</tr></thead><tbody>\n");
    let columns = if shown.len() > 1 { 5 } else { 3 };
    let mut said = false;
    for of in due {
        let status = worst(of);
        if status == Status::Vacuous && !said {
            said = true;
            put!(
                body,
                "<tr class=\"divider\"><td colspan=\"{columns}\"><b>Not put to the test: {}.</b> This run says nothing \
                about them. That is no pass.</td></tr>\n",
                plural(untried as u64, "promise")
            );
        }
        let required = first.report.require.iter().any(|id| id == of.id);
        let (title, _) = property(of.id);
        put!(body, "<tr class=\"{}\"><td><span class=\"id\">{}</span> {}", status.name(), escape(of.id), escape(title));
        if required {
            put!(body, " <span class=\"required\" title=\"The scenario asks for it\">required</span>");
        }
        for (side, (of, shown)) in std::iter::once(of).chain(other(of.id)).zip(shown).enumerate() {
            if let Some(witness) = &of.witness {
                put!(body, "<div class=\"witness\">{} {}</div>", escape(witness), jump(shown, witness, side));
            }
        }
        put!(body, "</td>");
        for of in std::iter::once(of).chain(other(of.id)) {
            put!(body, "<td><span class=\"pill {0}\">{1}</span></td>", of.status.name(), word(of.status));
            put!(body, "<td class=\"n\">{}</td>", if of.checked == 0 { "—".to_owned() } else { grouped(of.checked) });
        }
        put!(body, "</tr>\n");
    }
    put!(body, "</tbody></table></div></section>\n");
}

const fn word(status: Status) -> &'static str {
    match status {
        Status::Pass => "held",
        Status::Fail => "broken",
        Status::Vacuous => "not tried",
    }
}

const fn rank(status: Status) -> u8 {
    match status {
        Status::Fail => 2,
        Status::Pass => 1,
        Status::Vacuous => 0,
    }
}

/// Of two runs: broken if either is, else tried if either was.
const fn worse(a: Status, b: Status) -> Status {
    if rank(a) >= rank(b) {
        a
    } else {
        b
    }
}

fn plan(body: &mut String, source: &Source, first: &Shown) {
    let (scenario, report) = (&first.scenario, &first.report);
    put!(body, "<section aria-labelledby=\"plan\"><h2 id=\"plan\">The plan</h2>\n");
    if scenario.faults.is_empty() {
        put!(body, "<p class=\"note\">Nothing goes wrong in this scenario: no fault is planned.</p>\n");
    } else {
        put!(body, "<ol class=\"plan\">");
        for fault in scenario.faults.iter().take(LINES_MAX) {
            put!(body, "<li>{}</li>", escape(&fault_line(fault)));
        }
        put!(body, "</ol>\n");
        if let Some(more) = scenario.faults.len().checked_sub(LINES_MAX).filter(|more| *more > 0) {
            put!(body, "<p class=\"note\">And {} more, in the text below.</p>\n", grouped(more as u64));
        }
    }
    let effects: Vec<String> =
        report.effects.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
    if !effects.is_empty() {
        put!(body, "<p class=\"effects\"><b>Took effect:</b> {}</p>\n", escape(&effects.join(", ")));
    }
    if !report.idle.is_empty() {
        put!(
            body,
            "<p class=\"effects idle\"><b>Planned, and without any effect:</b> {}</p>\n",
            escape(&report.idle.join(", "))
        );
    }
    if !source.text.is_empty() {
        put!(body, "<details><summary>As TOML</summary><pre>{}</pre></details>\n", cut(&source.text));
    }
    put!(body, "</section>\n");
}

fn facts(body: &mut String, shown: &[Shown]) {
    put!(body, "<footer><dl>");
    for of in shown {
        let report = &of.report;
        let facts = [
            ("Profile", of.label.clone()),
            ("Seed", report.seed.to_string()),
            (
                "Simulated",
                format!("{} h of devices in {}", grouped(report.device_ms / 3_600_000), plural(report.runs, "run")),
            ),
            ("Events", grouped(report.events)),
            ("Program", crate::PROGRAM.to_owned()),
            ("Trace", hardtack::ids::hex(&report.trace_hash)[..32].to_owned()),
        ];
        for (name, value) in facts {
            put!(body, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
        }
    }
    put!(body, "</dl></footer>\n</main>\n");
}

/// What the pictures are drawn from.
fn data(shown: &[Shown]) -> Value {
    let first = &shown[0];
    let (start, duration) = (first.scenario.start, first.scenario.duration);
    let lanes = chosen(shown);
    let mut kinds: Vec<&'static str> = Vec::new();
    let sides: Vec<Value> = shown.iter().map(|of| side(of, &lanes, shown.len(), &mut kinds)).collect();
    let fleet: Vec<Value> = [("Operator", Whom::Operator), ("Broker", Whom::Broker), ("Service", Whom::Service)]
        .into_iter()
        .map(|(name, whom)| {
            let own: Vec<Mark> = first.marks.iter().filter(|mark| mark.whom == whom).copied().collect();
            json!({ "name": name, "marks": flat(&thinned(&own, MARKS_MAX / 6), start, &mut kinds) })
        })
        .collect();
    json!({
        "start": start / TICK,
        "duration": duration / TICK,
        "heal": first.scenario.heal / TICK,
        "states": State::NAMES,
        "links": Link::NAMES,
        "shades": shades(first),
        "fleet": fleet,
        "sides": sides,
        "kinds": kinds,
    })
}

/// Faults by family, as stretches of time with the most that lasted at once.
fn shades(first: &Shown) -> Vec<Value> {
    const FAMILIES: [(&str, &[&str]); 6] = [
        ("link", &["link."]),
        ("broker", &["broker."]),
        ("service", &["service."]),
        ("power", &["power.", "reboot", "suspend", "process.", "anchor.", "era.", "file.", "image.", "tail."]),
        ("disk", &["sync", "disk"]),
        ("clock", &["clock."]),
    ];
    let shaded = FAMILIES.into_iter().filter_map(|(name, prefixes)| {
        let own = first.marks.iter().filter(|mark| prefixes.iter().any(|prefix| mark.name.starts_with(prefix)));
        let mut stretches = shade(own);
        let mut gap = 1000;
        while stretches.len() > SHADES_MAX {
            gap *= 4;
            stretches = joined(&stretches, gap);
        }
        let start = first.scenario.start;
        let flat: Vec<[u64; 3]> = stretches
            .iter()
            .map(|(from, to, most)| [(from - start) / TICK, (to - from).div_ceil(TICK), u64::from(*most)])
            .collect();
        (!flat.is_empty()).then(|| json!({ "name": name, "spans": flat }))
    });
    shaded.collect()
}

/// Stretches that are closer to each other than `gap` as one.
fn joined(stretches: &[(u64, u64, u32)], gap: u64) -> Vec<(u64, u64, u32)> {
    let mut joined: Vec<(u64, u64, u32)> = Vec::new();
    for (from, to, most) in stretches.iter().copied() {
        match joined.last_mut() {
            Some(last) if from <= last.1 + gap => *last = (last.0, to.max(last.1), most.max(last.2)),
            Some(_) | None => joined.push((from, to, most)),
        }
    }
    joined
}

/// The gateways that have a lane, in order of their numbers.
fn chosen(shown: &[Shown]) -> Vec<usize> {
    let count = shown[0].recording.lanes.len();
    let mut weights = vec![0usize; count];
    for of in shown {
        for (number, lane) in of.recording.lanes.iter().enumerate() {
            weights[number] += lane.state.len() + lane.link.len() + 100 * lane.unaware.len();
        }
        for witness in of.report.properties.iter().filter_map(|property| property.witness.as_ref()) {
            if let Some(weight) = place_of(witness).1.and_then(|number| weights.get_mut(number as usize)) {
                *weight += 1_000_000;
            }
        }
    }
    let mut numbers: Vec<usize> = (0..count).collect();
    numbers.sort_by_key(|number| (std::cmp::Reverse(weights[*number]), *number));
    numbers.truncate(LANES_MAX);
    numbers.sort_unstable();
    numbers
}

/// What of a lane is drawn as bands.
struct Drawn {
    state: Changes<State>,
    link: Changes<Link>,
}

fn side(of: &Shown, numbers: &[usize], sides: usize, kinds: &mut Vec<&'static str>) -> Value {
    let recording = &of.recording;
    let start = recording.start;
    let lanes: Vec<&Lane> = numbers.iter().map(|number| &recording.lanes[*number]).collect();
    let changes = |grain: u64| {
        let both = lanes.iter().map(|lane| Drawn { state: thin(&lane.state, grain), link: thin(&lane.link, grain) });
        both.collect::<Vec<Drawn>>()
    };
    let count = |all: &[Drawn]| all.iter().map(|of| of.state.len() + of.link.len()).sum::<usize>();
    let mut grain = 0;
    let mut drawn = changes(grain);
    for coarser in GRAINS {
        if count(&drawn) <= CHANGES_MAX / sides {
            break;
        }
        grain = coarser;
        drawn = changes(grain);
    }
    let own: Vec<Mark> = of
        .marks
        .iter()
        .filter(|mark| match mark.whom {
            // What link and state show needs no mark.
            Whom::Gateway(number) => {
                numbers.binary_search(&(number as usize)).is_ok() && !matches!(mark.name, "link.down" | "suspend")
            }
            Whom::Broker | Whom::Operator | Whom::Service => false,
        })
        .copied()
        .collect();
    let own = thinned(&own, MARKS_MAX / sides);
    let lane = |((number, lane), Drawn { state, link }): ((&usize, &&Lane), &Drawn)| {
        let whom = Whom::Gateway(*number as u32);
        let marks: Vec<Mark> = own.iter().filter(|mark| mark.whom == whom).copied().collect();
        let unaware: Vec<u64> = lane.unaware.iter().map(|at| (at - start) / TICK).collect();
        let mut value = json!({
            "n": number,
            "state": steps(state.iter().map(|(at, state)| (*at, *state as u64)), start),
            "link": steps(link.iter().map(|(at, link)| (*at, *link as u64)), start),
            "marks": flat(&marks, start, kinds),
            "allowed": lane.allowed,
            "denied": lane.denied,
            "unaware": unaware,
        });
        if recording.singles {
            let single = lane.singles.iter().map(|of| (of.at, u64::from(of.reason)));
            value["singles"] = steps(single, start).into();
        }
        value
    };
    let lanes: Vec<Value> = numbers.iter().zip(&lanes).zip(&drawn).map(lane).collect();
    let curves = &recording.curves;
    json!({
        "label": of.label,
        "devices": recording.lanes.len(),
        "grain": grain / TICK,
        "lanes": lanes,
        "reasons": recording.reasons,
        "revocations": recording.revocations.iter().take(MARKS_MAX / 6).map(|(at, _)| (at - start) / TICK).collect::<Vec<u64>>(),
        "curves": {
            "states": curves.states,
            "current": curves.current,
            "backlog": curves.backlog,
            "allowed": curves.allowed,
            "denied": curves.denied,
        },
    })
}

/// Times and values in one row: each time as the step from the one before.
fn steps(of: impl Iterator<Item = (u64, u64)>, start: u64) -> Vec<u64> {
    let mut before = 0;
    let mut row = Vec::new();
    for (at, value) in of {
        let at = (at - start) / TICK;
        row.extend([at - before, value]);
        before = at;
    }
    row
}

/// Marks in one row: the step from the one before, how long, and the kind's number.
fn flat(marks: &[Mark], start: u64, kinds: &mut Vec<&'static str>) -> Vec<u64> {
    let mut before = 0;
    let mut row = Vec::new();
    for mark in marks {
        let kind = kinds.iter().position(|name| *name == mark.name).unwrap_or_else(|| {
            kinds.push(mark.name);
            kinds.len() - 1
        });
        let at = (mark.at - start) / TICK;
        row.extend([at - before, mark.lasts.div_ceil(TICK), kind as u64]);
        before = at;
    }
    row
}

/// So many marks at the most: those of one kind and gateway in one stretch are one.
fn thinned(marks: &[Mark], most: usize) -> Vec<Mark> {
    let mut left = marks.to_vec();
    for grain in GRAINS.into_iter().skip(1) {
        if left.len() <= most {
            break;
        }
        left.sort_by_key(|mark| (mark.whom, mark.name, mark.at));
        left.dedup_by(|next, kept| {
            let one = (next.whom, next.name, next.at / grain) == (kept.whom, kept.name, kept.at / grain);
            if one {
                kept.lasts = kept.lasts.max(next.at + next.lasts - kept.at);
            }
            one
        });
    }
    left.sort_by_key(|mark| mark.at);
    left.truncate(most);
    left
}
