//! What the program does where it is not PID 1.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use base::{Clock, SystemClock, Timestamp};

use crate::console::say;
use crate::{serve, wake_at};

const USAGE: &str = "usage: dormouse-agent wake-at [TIME | never] \
                     | serve --control-fd N [--no-fuse] | --version";

/// Exit code of a command that cannot be understood.
const MISUSED: u8 = 2;

/// Does what the arguments say.
pub(crate) fn run(args: &[&str]) -> ExitCode {
    // There is never a FUSE mount outside of a guest; the word is for callers that want to say so.
    match args {
        ["serve", "--control-fd", number] | ["serve", "--control-fd", number, "--no-fuse"] => {
            match number.parse() {
                Ok(number) => exit_code(serve(number).map_err(|error| error.to_string())),
                Err(_) => misused(USAGE),
            }
        }
        ["wake-at"] => print_wish(),
        ["wake-at", "never"] => exit_code(wish(None)),
        ["wake-at", time] => match wake_at::parse(time, SystemClock::new().now()) {
            Ok(at) => exit_code(wish(Some(at))),
            Err(why) => misused(&why),
        },
        ["--version"] => {
            say(env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => misused(USAGE),
    }
}

fn wish(at: Option<Timestamp>) -> Result<(), String> {
    let dir = wake_at::DIR;
    wake_at::wish(Path::new(dir), at).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("there is no {dir}: only a machine of dormouse can be woken")
        }
        _ => format!("write into {dir}: {error}"),
    })
}

fn print_wish() -> ExitCode {
    let Some(at) = wake_at::wished(Path::new(wake_at::DIR), SystemClock::new().now()) else {
        return ExitCode::SUCCESS;
    };
    exit_code(writeln!(std::io::stdout(), "{at}").map_err(|error| error.to_string()))
}

fn misused(why: &str) -> ExitCode {
    say(why);
    ExitCode::from(MISUSED)
}

fn exit_code(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            ExitCode::FAILURE
        }
    }
}
