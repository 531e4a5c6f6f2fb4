//! What was measured, as a table for people and as one JSON document for programs.

use std::collections::BTreeMap;
use std::io::{Write, stdout};

use anyhow::Context;
use serde::Serialize;

use super::host::Host;
use super::samples::Samples;

/// What a number counts, and whether more of it is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    /// 10^6 bytes.
    #[serde(rename = "MB/s")]
    MegabytesPerSecond,
    #[serde(rename = "req/s")]
    RequestsPerSecond,
    #[serde(rename = "files/s")]
    FilesPerSecond,
    #[serde(rename = "s")]
    Seconds,
    /// Requests that an object store was asked.
    #[serde(rename = "requests")]
    Requests,
    #[serde(rename = "MiB")]
    Mebibytes,
    /// So many times as much.
    #[serde(rename = "x")]
    Times,
}

impl Unit {
    const fn text(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::MegabytesPerSecond => "MB/s",
            Self::RequestsPerSecond => "req/s",
            Self::FilesPerSecond => "files/s",
            Self::Seconds => "s",
            Self::Requests => "requests",
            Self::Mebibytes => "MiB",
            Self::Times => "x",
        }
    }

    /// True where `value` is at least as good as `bound`.
    fn reaches(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Milliseconds | Self::Seconds | Self::Requests | Self::Mebibytes | Self::Times => {
                value <= bound
            }
            Self::MegabytesPerSecond | Self::RequestsPerSecond | Self::FilesPerSecond => {
                value >= bound
            }
        }
    }
}

/// What a row must reach, and what it should.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) row: &'static str,
    /// The peer whose ratio the bounds are for; without one they are for the number itself.
    pub(crate) against: Option<&'static str>,
    pub(crate) must: f64,
    pub(crate) goal: f64,
}

/// One measured thing.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    unit: Unit,
    /// The median.
    ours: f64,
    /// How many measurements the median is of.
    samples: usize,
    /// The same work done by others, in the same unit.
    peers: BTreeMap<&'static str, f64>,
    /// `ours` divided by each peer.
    ratios: BTreeMap<&'static str, f64>,
    must: Option<f64>,
    goal: Option<f64>,
    /// The peer whose ratio `must` and `goal` are for.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<&'static str>,
    /// Whether `must` is reached; null where nothing is asked for, or the peer was not measured.
    ok: Option<bool>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, unit: Unit, samples: &Samples) -> Self {
        Self {
            name: name.into(),
            unit,
            ours: significant(samples.median()),
            samples: samples.len(),
            peers: BTreeMap::new(),
            ratios: BTreeMap::new(),
            must: None,
            goal: None,
            against: None,
            ok: None,
        }
    }

    /// Sets it beside what another program took, where that was measured.
    pub(crate) fn peer(mut self, name: &'static str, samples: Option<&Samples>) -> Self {
        if let Some(value) = samples.map(Samples::median).filter(|value| *value > 0.0) {
            self.peers.insert(name, significant(value));
            self.ratios.insert(name, significant(self.ours / value));
        }
        self
    }

    fn aim(&mut self, target: Target) {
        self.must = Some(target.must);
        self.goal = Some(target.goal);
        self.against = target.against;
        let value = match target.against {
            Some(peer) => self.ratios.get(peer).copied(),
            None => Some(self.ours),
        };
        self.ok = value.map(|value| self.unit.reaches(value, target.must));
    }

    fn cells(&self) -> [String; 6] {
        let peers: Vec<_> = self
            .peers
            .iter()
            .map(|(name, value)| {
                let ratio = self.ratios.get(name).copied().unwrap_or_default();
                format!("{name} {value} ({ratio}x)")
            })
            .collect();
        let x = if self.against.is_some() { "x" } else { "" };
        let bound = |bound: Option<f64>| bound.map(|n| format!("{n}{x}")).unwrap_or_default();
        let verdict = match self.ok {
            Some(true) => " ok",
            Some(false) => " MISSED",
            None => "",
        };
        [
            self.name.clone(),
            format!("{} {}", self.ours, self.unit.text()),
            peers.join(", "),
            format!("{}{verdict}", bound(self.must)),
            bound(self.goal),
            self.samples.to_string(),
        ]
    }
}

/// A group's numbers, and what they were measured on.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    group: &'static str,
    machine: Host,
    rows: Vec<Row>,
    #[serde(skip)]
    targets: &'static [Target],
}

impl Report {
    pub(crate) fn new(group: &'static str, machine: Host, targets: &'static [Target]) -> Self {
        Self { group, machine, rows: Vec::new(), targets }
    }

    pub(crate) fn push(&mut self, mut row: Row) {
        if let Some(target) = self.targets.iter().find(|target| target.row == row.name) {
            row.aim(*target);
        }
        self.rows.push(row);
    }

    /// Rows that do not reach what they must.
    pub(crate) fn missed(&self) -> Vec<&str> {
        let missed = self.rows.iter().filter(|row| row.ok == Some(false));
        missed.map(|row| row.name.as_str()).collect()
    }

    /// What it was measured on.
    pub(crate) fn machine(&mut self) -> &mut Host {
        &mut self.machine
    }

    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json {
            serde_json::to_string_pretty(self).context("make the JSON document")? + "\n"
        } else {
            self.table()
        };
        stdout().write_all(text.as_bytes()).context("write the result")
    }

    fn table(&self) -> String {
        let head = ["", "median", "peers (ours/theirs)", "must", "goal", "n"].map(str::to_owned);
        let lines: Vec<_> = std::iter::once(head).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..6).map(width).collect();
        let mut table = format!("{}: {}\n\n", self.group, self.machine);
        for line in &lines {
            let [name, numbers @ ..] = line;
            let mut text = format!("{name:<0$}", widths[0]);
            for (number, width) in numbers.iter().zip(&widths[1..]) {
                text += &format!("  {number:>width$}");
            }
            table += text.trim_end();
            table.push('\n');
        }
        table
    }
}

/// `value` to four significant digits: the rest is noise.
fn significant(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 3.0 - value.abs().log10().floor();
    let scale = 10_f64.powf(digits.abs());
    if digits < 0.0 { (value / scale).round() * scale } else { (value * scale).round() / scale }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TARGETS: &[Target] = &[
        Target { row: "quick", against: None, must: 20.0, goal: 8.0 },
        Target { row: "wide", against: None, must: 100.0, goal: 200.0 },
        Target { row: "beside", against: Some("disk"), must: 2.0, goal: 1.0 },
        Target { row: "alone", against: Some("disk"), must: 2.0, goal: 1.0 },
    ];

    fn samples(value: f64) -> Samples {
        Samples::default().tap(value)
    }

    impl Samples {
        fn tap(mut self, value: f64) -> Self {
            self.push(value);
            self
        }
    }

    fn report() -> Report {
        let mut report = Report::new("machine", Host::default(), TARGETS);
        report.push(Row::new("quick", Unit::Milliseconds, &samples(12.3456)));
        let disk = samples(260.0);
        report.push(
            Row::new("wide", Unit::MegabytesPerSecond, &samples(65.0)).peer("disk", Some(&disk)),
        );
        report.push(Row::new("free", Unit::FilesPerSecond, &samples(123_456.7)).peer("tar", None));
        report
    }

    #[test]
    fn the_document_has_the_agreed_fields() {
        let document = serde_json::to_value(report()).unwrap();
        assert_eq!(document["group"], "machine");
        assert!(document["machine"].is_object());
        assert_eq!(
            document["rows"][0],
            json!({"name": "quick", "unit": "ms", "ours": 12.35, "samples": 1, "peers": {},
                   "ratios": {}, "must": 20.0, "goal": 8.0, "ok": true})
        );
        assert_eq!(
            document["rows"][1],
            json!({"name": "wide", "unit": "MB/s", "ours": 65.0, "samples": 1,
                   "peers": {"disk": 260.0}, "ratios": {"disk": 0.25},
                   "must": 100.0, "goal": 200.0, "ok": false})
        );
        assert_eq!(
            document["rows"][2],
            json!({"name": "free", "unit": "files/s", "ours": 123_500.0, "samples": 1,
                   "peers": {}, "ratios": {}, "must": null, "goal": null, "ok": null})
        );
    }

    #[test]
    fn a_target_may_be_a_ratio_to_a_peer() {
        let mut report = Report::new("machine", Host::default(), TARGETS);
        let disk = samples(10.0);
        let row = |name: &str, value| Row::new(name, Unit::Seconds, &samples(value));
        report.push(row("beside", 15.0).peer("disk", Some(&disk)));
        report.push(row("beside", 21.0).peer("disk", Some(&disk)));
        report.push(row("alone", 1.0));
        let verdicts: Vec<_> = report.rows.iter().map(|row| row.ok).collect();
        assert_eq!(verdicts, [Some(true), Some(false), None], "nothing is said without the peer");
        assert!(report.table().contains("2x MISSED"));
        assert_eq!(report.missed(), ["beside"], "what has no verdict is not missed");
    }

    #[test]
    fn a_time_must_be_short_and_a_rate_high() {
        assert!(Unit::Milliseconds.reaches(20.0, 20.0));
        assert!(!Unit::Milliseconds.reaches(20.1, 20.0));
        assert!(Unit::RequestsPerSecond.reaches(20.1, 20.0));
        assert!(!Unit::MegabytesPerSecond.reaches(19.9, 20.0));
    }

    #[test]
    fn the_table_lines_up_and_shows_what_was_missed() {
        let table = report().table();
        let lines: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(lines[1].contains("12.35 ms") && lines[1].contains("20 ok"), "{table}");
        assert!(lines[2].contains("disk 260 (0.25x)") && lines[2].contains("100 MISSED"));
        let ends: Vec<_> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{table}");
    }

    #[test]
    fn four_digits_are_kept() {
        for (value, kept) in [(0.012_345_6, 0.012_35), (98_765.4, 98_770.0), (0.0, 0.0)] {
            assert!((significant(value) - kept).abs() < 1e-9, "{value}");
        }
    }
}
