//! Single files, small and large. What the server acknowledges is fsynced on the local disk, so the
//! peer is a plain program that fsyncs on the same disk.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::{BUDGET, Bench, LONG_RUNS, RUNS, State};
use crate::bench::disk::megabytes;
use crate::bench::http::Body;
use crate::bench::load::CLIENTS;
use crate::bench::many::{self, Requests};
use crate::bench::pattern::{self, Check, PAGE, Pattern};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::{Samples, ms_since};

/// Requests that a median of single requests is of.
const REQUESTS: usize = 300;
/// Requests of one measurement of many connections.
const MANY: u64 = 10_000;
/// Bytes of the large file.
const LARGE: u64 = 1 << 30;

pub(super) fn disk_small(bench: &mut Bench) -> anyhow::Result<()> {
    bench.disk.measure_small(&bench.server.root().join("peer"), REQUESTS)
}

pub(super) fn disk_large(bench: &mut Bench) -> anyhow::Result<()> {
    bench.disk.measure_large(&bench.server.root().join("peer"), LARGE, LONG_RUNS, BUDGET)
}

/// Another file in every request, each with other bytes, in directories of a hundred.
struct Puts {
    folder: String,
    page: Vec<u8>,
}

impl Requests for Puts {
    fn write(&self, number: u64, head: &str, out: &mut Vec<u8>) {
        let (dir, Self { folder, page }) = (number / 100, self);
        write!(out, "PUT {folder}/{dir}/{number} HTTP/1.1\r\n{head}Content-Length: {PAGE}\r\n\r\n")
            .expect("memory takes all");
        let stamp = number.to_le_bytes();
        out.extend_from_slice(&stamp);
        out.extend_from_slice(&page[stamp.len()..]);
    }

    fn check(&self, _: u64, body: &[u8]) -> anyhow::Result<()> {
        ensure!(body.first() == Some(&b'{'), "no JSON came back");
        Ok(())
    }
}

/// The files that `small` wrote one after the other.
struct Gets {
    folder: String,
}

impl Requests for Gets {
    fn write(&self, number: u64, head: &str, out: &mut Vec<u8>) {
        let (file, Self { folder }) = (number % REQUESTS as u64, self);
        write!(out, "GET {folder}/{file} HTTP/1.1\r\n{head}\r\n").expect("memory takes all");
    }

    fn check(&self, number: u64, body: &[u8]) -> anyhow::Result<()> {
        let stamp = pattern::stamp(1, number % REQUESTS as u64);
        ensure!(body.len() == PAGE && body.starts_with(&stamp), "not what was written");
        Ok(())
    }
}

/// Files of 4 KiB, one after the other and by many clients.
pub(super) fn small(bench: &mut Bench, state: State) -> anyhow::Result<()> {
    put_small(bench, state)?;
    get_small(bench, state)
}

fn put_small(bench: &mut Bench, state: State) -> anyhow::Result<()> {
    let word = state.word();
    let folder = bench.path(&format!("/fs/small-{word}"))?;
    let mut connection = bench.endpoint.connect()?;
    // Makes the folder and, asleep, the draft.
    connection.send("PUT", &format!("{folder}/first"), Body::None)?;
    let one = Samples::take(REQUESTS, BUDGET, |number| {
        let page = pattern::page(1, number as u64);
        let started = Instant::now();
        connection.send("PUT", &format!("{folder}/{number}"), Body::Bytes(&page))?;
        Ok(ms_since(started))
    })?;
    let row = Row::new(format!("PUT 4 KiB, {word}"), Unit::Milliseconds, &one);
    bench.report.push(row.peer("disk", Some(&bench.disk.small)));

    let many = Samples::take(RUNS, BUDGET, |run| {
        let puts = Puts { folder: format!("{folder}/run-{run}"), page: pattern::page(2, 0) };
        many::rate(&bench.endpoint, CLIENTS, MANY, &puts)
    })?;
    let name = format!("PUT 4 KiB, {word}, {CLIENTS} connections");
    let row = Row::new(name, Unit::RequestsPerSecond, &many);
    bench.report.push(row.peer("disk", Some(&bench.disk.small_many)));
    Ok(())
}

/// Those that were written awake: asleep, they are the published state.
fn get_small(bench: &mut Bench, state: State) -> anyhow::Result<()> {
    let word = state.word();
    let folder = bench.path("/fs/small-awake")?;
    let mut connection = bench.endpoint.connect()?;
    let one = Samples::take(REQUESTS, BUDGET, |number| {
        let mut read = Vec::with_capacity(PAGE);
        let started = Instant::now();
        connection.read(&format!("{folder}/{number}"), &mut |bytes| {
            read.extend_from_slice(bytes);
            Ok(())
        })?;
        let took = ms_since(started);
        ensure!(read == pattern::page(1, number as u64), "file {number} is not what was written");
        Ok(took)
    })?;
    bench.report.push(Row::new(format!("GET 4 KiB, {word}"), Unit::Milliseconds, &one));

    let many = Samples::take(RUNS, BUDGET, |_| {
        many::rate(&bench.endpoint, CLIENTS, MANY, &Gets { folder: folder.clone() })
    })?;
    let name = format!("GET 4 KiB, {word}, {CLIENTS} connections");
    bench.report.push(Row::new(name, Unit::RequestsPerSecond, &many));
    Ok(())
}

/// One file of 1 GiB, streamed.
pub(super) fn large(bench: &mut Bench, state: State) -> anyhow::Result<()> {
    let word = state.word();
    let published = bench.path("/fs/large")?;
    let put = match state {
        State::Awake => published.clone(),
        State::Asleep => bench.path("/fs/large-draft")?,
    };
    let rate = |started: Instant| megabytes(LARGE) / started.elapsed().as_secs_f64();

    let samples = Samples::take(LONG_RUNS, BUDGET, |run| {
        // Other bytes in every run: what is known already would not be stored again.
        let tag = 10 * (state as u32 + 1) + u32::try_from(run)?;
        let mut pattern = Pattern::new(tag, LARGE);
        let mut connection = bench.endpoint.connect()?;
        let started = Instant::now();
        connection.send("PUT", &put, Body::Stream(LARGE, &mut pattern))?;
        if state == State::Awake {
            bench.large = Some(tag);
        }
        Ok(rate(started))
    })?;
    let row = Row::new(format!("PUT 1 GiB, {word}"), Unit::MegabytesPerSecond, &samples);
    bench.report.push(row.peer("disk", Some(&bench.disk.write)));

    let tag = bench.large.context("no large file was written")?;
    let samples = Samples::take(LONG_RUNS, BUDGET, |_| {
        let mut connection = bench.endpoint.connect()?;
        let mut check = Check::new(tag);
        let started = Instant::now();
        connection.read(&published, &mut |bytes| check.see(bytes))?;
        check.end(LARGE)?;
        Ok(rate(started))
    })?;
    let row = Row::new(format!("GET 1 GiB, {word}"), Unit::MegabytesPerSecond, &samples);
    bench.report.push(row.peer("disk", Some(&bench.disk.read)));
    Ok(())
}
