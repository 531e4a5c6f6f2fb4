//! Logs on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::dirs;

/// Starts logging: text for a terminal, JSON lines otherwise (`DORMOUSE_LOG_FORMAT` decides), at `info`
/// unless `DORMOUSE_LOG` says otherwise.
pub(crate) fn init_logs() {
    let filter = dirs::variable("DORMOUSE_LOG")
        .and_then(|directives| EnvFilter::try_new(directives).ok())
        .unwrap_or_else(|| EnvFilter::new("info,object_store=warn,hyper=warn"));
    let json = match dirs::variable("DORMOUSE_LOG_FORMAT").as_deref() {
        Some("json") => true,
        Some("text") => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr);
    // Already set only in tests, where the first one is as good.
    if json {
        builder.json().flatten_event(true).with_span_list(false).try_init().ok();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init().ok();
    }
}
