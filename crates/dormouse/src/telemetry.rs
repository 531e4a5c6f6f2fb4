//! Logs on stderr.

mod lines;

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::dirs;
pub(crate) use lines::Flush;
use lines::Lines;

/// Starts logging, each line at once: text for a terminal, JSON lines otherwise (`DORMOUSE_LOG_FORMAT` decides),
/// at `info` unless `DORMOUSE_LOG` says otherwise.
pub(crate) fn init_logs() {
    init(stderr);
}

/// The same for who logs much: lines go out together, the last ones when the result is dropped.
pub(crate) fn init_many_logs() -> Option<Flush> {
    match Lines::to(stderr()) {
        Ok((lines, flush)) => {
            init(lines);
            Some(flush)
        }
        // No thread to be had: slower, that is all.
        Err(_) => {
            init_logs();
            None
        }
    }
}

fn init(writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    let filter = dirs::variable("DORMOUSE_LOG")
        .and_then(|directives| EnvFilter::try_new(directives).ok())
        .unwrap_or_else(|| EnvFilter::new("info,object_store=warn,hyper=warn"));
    let json = match dirs::variable("DORMOUSE_LOG_FORMAT").as_deref() {
        Some("json") => true,
        Some("text") => false,
        _ => !stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(writer);
    // Already set only in tests, where the first one is as good.
    if json {
        builder.json().flatten_event(true).with_span_list(false).try_init().ok();
    } else {
        builder.with_ansi(stderr().is_terminal()).try_init().ok();
    }
}
