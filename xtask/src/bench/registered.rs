//! The group `registered`: what ten thousand machines that sleep cost those who list and create.
//!
//! # Order
//! A machine is created a few times while there is none besides, and forked until there are
//! [`MACHINES`]; pages are listed at the beginning, the middle and the end; then machines are created
//! again. A fork is a machine that sleeps and never ran: nothing but its boot is left out of it. Each
//! machine is forked [`FORKS_OF_EACH`] times, since a home that has thousands of forks is another question.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::Measured;
use super::host::Host;
use super::http::{Connection, Endpoint};
use super::machine::commands;
use super::report::{Report, Row, Target, Unit};
use super::samples::{Samples, ms_since};
use super::server::Server;
use crate::progress;

/// Its name.
pub(super) const GROUP: &str = "registered";

/// How many machines there are in the end.
const MACHINES: usize = 10_000;
/// How often one is forked.
const FORKS_OF_EACH: usize = 64;
/// Machines that are created with few and with many others: boots differ by a tenth among themselves, and a median of
/// few of them would tell that.
const CREATED: usize = 15;
/// Pages that are listed at each place.
const PAGES: usize = 20;
/// Machines of a page.
const PAGE: usize = 100;
/// Forks that a median is of.
const FORKS: usize = 200;
/// No further run begins after this.
const BUDGET: Duration = Duration::from_secs(60);

const LIST: &str = "list a page of 100 of 10,000";
const CREATE: &str = "create → first output, among 10,000";
const FORK: &str = "fork, among 10,000";
const ALONE: &str = "alone";

const TARGETS: &[Target] = &[
    Target { row: LIST, against: None, must: 50.0, goal: 50.0 },
    Target { row: CREATE, against: Some(ALONE), must: 1.1, goal: 1.0 },
    Target { row: FORK, against: Some(ALONE), must: 1.1, goal: 1.0 },
];

/// Runs all of it. There is one section, so nothing can be left out.
pub(super) fn measure(_only: &str) -> anyhow::Result<Measured> {
    let server = Server::prepare()?;
    let endpoint = progress::step("start the server", || server.start());
    let endpoint = endpoint.inspect_err(|_| server.show_logs())?;
    let mut report = Report::new(GROUP, Host::this(), TARGETS);
    let measured = measure_on(&endpoint, &mut report);
    if measured.is_err() {
        server.wait_if_interrupted();
        server.show_logs();
    }
    progress::step("clean up", || {
        drop(server);
        Ok(())
    })?;
    Ok((report, measured.err().into_iter().collect()))
}

fn measure_on(endpoint: &Endpoint, report: &mut Report) -> anyhow::Result<()> {
    let create = |name: &str| {
        let (mut last, mut run) = (None, 0);
        let samples = Samples::take(CREATED, BUDGET, |_| {
            if let Some(last) = last.take() {
                endpoint.json("DELETE", &format!("/v1/machines/{last}"), &Value::Null)?;
            }
            run += 1;
            let started = Instant::now();
            let id = created(endpoint, &format!("{name}-{run}"))?;
            commands::first_output_of(endpoint, &id)?;
            last = Some(id);
            Ok(ms_since(started))
        });
        let id = last.context("no machine was created")?;
        endpoint.json("POST", &format!("/v1/machines/{id}/sleep"), &Value::Null)?;
        Ok::<_, anyhow::Error>((samples?, id))
    };
    let (alone, first) = progress::step("create, alone", || create("alone"))?;
    let mut ids = vec![first];
    let mut connection = endpoint.connect()?;
    let mut times = Samples::default();
    let (mut few, mut many) = (Samples::default(), Samples::default());
    progress::step("fork until there are 10,000", || {
        while ids.len() < MACHINES {
            let n = ids.len();
            let took = fork(&mut connection, &mut ids, n)?;
            times.push(took);
            match n {
                // The first ones find cold caches.
                FORKS..400 => few.push(took),
                _ if n + FORKS >= MACHINES => many.push(took),
                _ => {}
            }
        }
        Ok(())
    })?;
    let listed = progress::step("list", || list(&mut connection))?;
    report.push(Row::new(LIST, Unit::Milliseconds, &listed));
    report.push(Row::new(FORK, Unit::Milliseconds, &many).peer(ALONE, Some(&few)));
    let (among, _) = progress::step("create, among many", || create("among"))?;
    report.push(Row::new(CREATE, Unit::Milliseconds, &among).peer(ALONE, Some(&alone)));
    Ok(())
}

fn created(endpoint: &Endpoint, name: &str) -> anyhow::Result<String> {
    let body = json!({"name": name, "vcpu": 1, "memory_mib": 512, "storage_gib": 8,
                      "autosleep": "never"});
    let machine = endpoint.json("POST", "/v1/machines", &body)?;
    Ok(machine["machine_id"].as_str().context("a new machine has an id")?.to_owned())
}

/// Milliseconds until there is one more.
fn fork(connection: &mut Connection, ids: &mut Vec<String>, n: usize) -> anyhow::Result<f64> {
    let parent = &ids[n.saturating_sub(1) / FORKS_OF_EACH];
    let started = Instant::now();
    let path = format!("/v1/machines/{parent}/fork");
    let forked = connection.json("POST", &path, &json!({"name": format!("fork-{n}")}))?;
    let took = ms_since(started);
    ids.push(forked["machine_id"].as_str().context("a fork has an id")?.to_owned());
    Ok(took)
}

/// Pages at the beginning, in the middle and at the end: all are walked, some are counted.
fn list(connection: &mut Connection) -> anyhow::Result<Samples> {
    let (mut samples, mut cursor, mut seen, mut page) = (Samples::default(), None, 0, 0);
    loop {
        let from = cursor.map_or_else(String::new, |cursor: String| format!("&cursor={cursor}"));
        let started = Instant::now();
        let listed =
            connection.json("GET", &format!("/v1/machines?limit={PAGE}{from}"), &Value::Null)?;
        let took = ms_since(started);
        seen += listed["items"].as_array().map_or(0, Vec::len);
        let last = MACHINES / PAGE;
        if page < PAGES || (last / 2..last / 2 + PAGES).contains(&page) || page + PAGES >= last {
            samples.push(took);
        }
        page += 1;
        match listed["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    ensure!(seen == MACHINES, "{seen} machines were listed of {MACHINES}");
    Ok(samples)
}
