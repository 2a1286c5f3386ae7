//! Formats a profile as a table, for each kind of op or each node, and as JSON.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Machine, Piece, Profile};
use crate::base::report::Table;

/// Pieces of a step that are shown together.
struct Line {
    what: String,
    /// Shapes and parameter of a node; empty for others.
    detail: [String; 2],
    calls: usize,
    time: Duration,
    /// Operations and bytes of all calls.
    flops: u64,
    bytes: u64,
}

impl Line {
    fn of(piece: &Piece, what: String, detail: [String; 2]) -> Line {
        let calls = piece.calls as u64;
        Line {
            what,
            detail,
            calls: piece.calls,
            time: piece.time,
            flops: calls * piece.flops,
            bytes: calls * piece.bytes,
        }
    }

    fn add(&mut self, other: Line) {
        self.calls += other.calls;
        self.time += other.time;
        self.flops += other.flops;
        self.bytes += other.bytes;
    }
}

/// Returns a line for each kind of op in each pass, those that take the most time first; then what is left of a step.
fn lines_of_ops(profile: &Profile) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for piece in &profile.pieces {
        let line = Line::of(piece, name(piece), Default::default());
        match lines.iter_mut().find(|other| other.what == line.what) {
            Some(other) => other.add(line),
            None => lines.push(line),
        }
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.time));
    lines.push(rest(profile));
    lines
}

/// Returns a line for each piece of work of each node, in their order; then what is left of a step.
fn lines_of_nodes(profile: &Profile) -> Vec<Line> {
    let lines = profile.pieces.iter().map(|piece| {
        let what = if piece.part.is_some() { piece.range.clone() } else { piece.name.into() };
        Line::of(piece, what, [piece.shapes.clone(), piece.param.clone()])
    });
    lines.chain([rest(profile)]).collect()
}

/// Returns the name of a kind of work.
fn name(piece: &Piece) -> String {
    piece.part.map_or_else(|| piece.name.into(), |part| format!("{} {}", piece.name, part.name()))
}

/// Returns the time in which none of the pieces ran.
fn rest(profile: &Profile) -> Line {
    let pieces: Duration = profile.pieces.iter().map(|piece| piece.time).sum();
    let time = profile.steps.iter().sum::<Duration>().saturating_sub(pieces);
    Line { what: "the rest".into(), detail: Default::default(), calls: 0, time, flops: 0, bytes: 0 }
}

/// A line with its figures, which are those of one step. Rates are `None` where nothing is counted.
#[derive(Serialize)]
struct Entry<'a> {
    op: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    shapes: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    parameter: &'a str,
    calls: f64,
    ms: f64,
    share: f64,
    flops: f64,
    bytes: f64,
    gflop_per_s: Option<f64>,
    share_of_product: Option<f64>,
    gb_per_s: Option<f64>,
    share_of_copy: Option<f64>,
}

impl<'a> Entry<'a> {
    fn new(line: &'a Line, profile: &Profile, machine: Machine) -> Entry<'a> {
        let (steps, seconds) = (profile.steps.len() as f64, line.time.as_secs_f64());
        let rate = |amount: u64| (amount > 0 && seconds > 0.0).then(|| amount as f64 / seconds);
        let (flops, bytes) = (rate(line.flops), rate(line.bytes));
        let [shapes, parameter] = &line.detail;
        Entry {
            op: &line.what,
            shapes,
            parameter,
            calls: line.calls as f64 / steps,
            ms: 1e3 * seconds / steps,
            share: seconds / total(profile).as_secs_f64(),
            flops: line.flops as f64 / steps,
            bytes: line.bytes as f64 / steps,
            gflop_per_s: flops.map(|rate| rate / 1e9),
            share_of_product: flops.map(|rate| rate / machine.product),
            gb_per_s: bytes.map(|rate| rate / 1e9),
            share_of_copy: bytes.map(|rate| rate / machine.copy),
        }
    }
}

/// Returns the time of all steps.
fn total(profile: &Profile) -> Duration {
    profile.steps.iter().sum()
}

/// Returns the table of all pieces: a line for each node if `nodes`, else for each kind of op.
pub(crate) fn table(profile: &Profile, machine: Machine, nodes: bool) -> String {
    let (mut lines, details) = if nodes { (lines_of_nodes(profile), 2) } else { (lines_of_ops(profile), 0) };
    let flops = lines.iter().map(|line| line.flops).sum();
    lines.push(Line { what: "step".into(), time: total(profile), flops, ..rest(profile) });
    let columns = ["calls", "ms", "share", "GFLOP/s", "of product", "GB/s", "of copy"];
    let header = ["op"].into_iter().chain(["shapes", "parameter"].into_iter().take(details)).chain(columns);
    let mut table = Table::new(header);
    for line in &lines {
        let entry = Entry::new(line, profile, machine);
        let number = |value: Option<f64>, digits: usize| value.map_or("".into(), |value| format!("{value:.digits$}"));
        let percent = |share: Option<f64>| share.map_or("".into(), |share| format!("{:.0} %", 100.0 * share));
        let figures = [
            number((line.calls > 0).then_some(entry.calls), usize::from(entry.calls.fract() > 0.0)),
            number(Some(entry.ms), 2),
            format!("{:.1} %", 100.0 * entry.share),
            number(entry.gflop_per_s, 0),
            percent(entry.share_of_product),
            number(entry.gb_per_s, 1),
            percent(entry.share_of_copy),
        ];
        let first = [line.what.clone()].into_iter().chain(line.detail.iter().take(details).cloned());
        table.row(first.chain(figures));
    }
    table.to_string()
}

/// Describes the times of the steps in one line.
pub(crate) fn steps(profile: &Profile) -> String {
    let times = milliseconds(profile);
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    format!("{mean:.1} ms, the mean of {} ({least:.1} to {most:.1} ms)", times.len())
}

/// Returns everything that was measured.
pub(crate) fn to_json(profile: &Profile, machine: Machine) -> Value {
    let entries =
        |lines: Vec<Line>| json!(lines.iter().map(|line| Entry::new(line, profile, machine)).collect::<Vec<_>>());
    json!({
        "batch": profile.batch,
        "machine": { "gflop_per_s": machine.product / 1e9, "gb_per_s": machine.copy / 1e9 },
        "steps_ms": milliseconds(profile),
        "ops": entries(lines_of_ops(profile)),
        "nodes": entries(lines_of_nodes(profile)),
    })
}

/// Returns the time of each step.
fn milliseconds(profile: &Profile) -> Vec<f64> {
    profile.steps.iter().map(|time| 1e3 * time.as_secs_f64()).collect()
}
