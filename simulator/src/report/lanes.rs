//! A run as lanes of characters, for a terminal or a log.
//!
//! Owns: a row per gateway, a row per family of faults, an axis, and what broke.
//! Never: uses colour: it is read in logs as well.
//! Read next: `html.rs`, which draws the same.

use super::marks::{shade, Mark, Whom};
use super::record::{Changes, Lane, Link, State};
use super::shown::Shown;
use super::words::{span, verdict};
use super::Status;

/// Rows of gateways, at the most.
const ROWS_MAX: usize = 64;
/// Columns of the names in front.
const NAMES: usize = 10;

/// The lanes, `width` characters wide in all.
pub fn text(of: &Shown, width: usize) -> String {
    let columns = width.saturating_sub(NAMES + 1).max(20);
    let recording = &of.recording;
    let time = Time { start: recording.start, duration: recording.duration, columns };
    let (headline, sentence) = verdict(&of.report, of.scenario.fleet.devices, of.scenario.duration);
    let mut text = format!("{}  {}\n{headline}. {sentence}\n\n", of.scenario.name, of.report.verdict().name());
    text.push_str(&row("", &time.axis()));
    for (name, whom) in [("operator", Whom::Operator), ("broker", Whom::Broker), ("service", Whom::Service)] {
        let own: Vec<Mark> = of.marks.iter().filter(|mark| mark.whom == whom).copied().collect();
        if !own.is_empty() {
            text.push_str(&row(name, &time.marks(&own)));
        }
    }
    for (lane, number) in recording.lanes.iter().zip(0u32..).take(ROWS_MAX) {
        text.push_str(&row(&format!("gw-{number}"), &time.states(&lane.state)));
        if lane.link.iter().any(|(_, link)| *link != Link::Open) {
            text.push_str(&row("  link", &time.links(&lane.link)));
        }
        let own: Vec<Mark> = of
            .marks
            .iter()
            .filter(|mark| mark.whom == Whom::Gateway(number) && mark.name != "link.down")
            .copied()
            .collect();
        if !own.is_empty() {
            text.push_str(&row("  faults", &time.marks(&own)));
        }
        text.push_str(&row("  asks", &time.decisions(lane)));
    }
    if let Some(more) = recording.lanes.len().checked_sub(ROWS_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("and {more} more gateways\n"));
    }
    text.push_str("\n━ online  ─ offline, within bounds  ╌ stale  × locked  z asleep  . no agent  (blank) off\n");
    text.push_str(
        "# link down  < no way in  > no way out  │ a moment  ▒ a while  ▁▂▃▄▅▆▇█ decisions  ! allowed though revoked\n",
    );
    for property in of.report.properties.iter().filter(|property| property.status == Status::Fail) {
        text.push_str(&format!("{}: {}\n", property.id, property.witness.as_deref().unwrap_or_default()));
    }
    text
}

fn row(name: &str, cells: &str) -> String {
    let line = format!("{name:<NAMES$} {cells}");
    format!("{}\n", line.trim_end())
}

struct Time {
    start: u64,
    duration: u64,
    columns: usize,
}

impl Time {
    /// The column of a moment.
    fn column(&self, at: u64) -> usize {
        let passed = u128::from(at.saturating_sub(self.start));
        let column = passed * self.columns as u128 / u128::from(self.duration.max(1));
        (column as usize).min(self.columns - 1)
    }

    /// The least of what lasts in each column, as a character.
    fn least<T: Copy + Ord>(&self, changes: &Changes<T>, show: impl Fn(T) -> char) -> String {
        let mut cells: Vec<Option<T>> = vec![None; self.columns];
        let ends = changes.iter().skip(1).map(|(at, _)| *at).chain([self.start + self.duration]);
        for ((at, value), until) in changes.iter().zip(ends) {
            if until > *at {
                for cell in &mut cells[self.column(*at)..=self.column(until - 1)] {
                    *cell = Some(cell.map_or(*value, |least| least.min(*value)));
                }
            }
        }
        cells.into_iter().map(|cell| cell.map_or(' ', &show)).collect()
    }

    fn states(&self, changes: &Changes<State>) -> String {
        self.least(changes, |state| match state {
            State::Locked => '×',
            State::Stale => '╌',
            State::Off => ' ',
            State::Down => '.',
            State::Asleep => 'z',
            State::Offline => '─',
            State::Online => '━',
        })
    }

    fn links(&self, changes: &Changes<Link>) -> String {
        self.least(changes, |link| match link {
            Link::Down => '#',
            Link::UpBlocked => '>',
            Link::DownBlocked => '<',
            Link::Open => ' ',
        })
    }

    fn marks(&self, marks: &[Mark]) -> String {
        let mut cells = vec![' '; self.columns];
        for (from, to, _) in shade(marks.iter()) {
            cells[self.column(from)..=self.column(to.saturating_sub(1).max(from))].fill('▒');
        }
        for mark in marks.iter().filter(|mark| mark.lasts == 0) {
            cells[self.column(mark.at)] = '│';
        }
        cells.into_iter().collect()
    }

    /// How many decisions fell into each column, against the most.
    fn decisions(&self, lane: &Lane) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let mut counts = vec![0u64; self.columns];
        let bins = lane.allowed.len() as u64;
        for (bin, count) in (0..).zip(lane.allowed.iter().zip(&lane.denied)) {
            let at = self.start + (2 * bin + 1) * self.duration / (2 * bins);
            counts[self.column(at)] += u64::from(count.0 + count.1);
        }
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let mut cells: Vec<char> = counts
            .iter()
            .map(|count| if *count == 0 { ' ' } else { BARS[((count * 8).div_ceil(most) - 1) as usize] })
            .collect();
        lane.unaware.iter().for_each(|at| cells[self.column(*at)] = '!');
        cells.into_iter().collect()
    }

    /// Marks of time, as many as there is room for.
    fn axis(&self) -> String {
        const STEPS: [u64; 12] = [
            60_000,
            300_000,
            900_000,
            1_800_000,
            3_600_000,
            7_200_000,
            21_600_000,
            43_200_000,
            86_400_000,
            172_800_000,
            604_800_000,
            2_592_000_000,
        ];
        const ROOM: u64 = 12;
        let fits = |step: &u64| self.duration / step * ROOM <= self.columns as u64;
        let step = STEPS.into_iter().find(fits).unwrap_or(self.duration.max(1));
        let mut cells = vec![' '; self.columns];
        for at in (0..self.duration).step_by(step as usize) {
            let label = if at == 0 { "0".to_owned() } else { span(at) };
            let text: Vec<char> = std::iter::once('|').chain(label.chars()).collect();
            let column = self.column(self.start + at);
            for (cell, c) in cells[column..].iter_mut().zip(text) {
                *cell = c;
            }
        }
        cells.into_iter().collect()
    }
}
