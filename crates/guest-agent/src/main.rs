//! PID 1 of every guest: mounts its root, relays its home, runs commands for the host.
//!
//! Three ways to run. As PID 1, from the initramfs: [`boot`], then [`control`] on the virtio port
//! until the host asks to shut down. By the guest's user, `dormouse-agent wake-at`: see [`wake_at`].
//! Outside of guests, `dormouse-agent serve --control-fd N`: the same control channel on an inherited
//! socket, for tests; it mounts nothing, sets no clock and no name, and ends with the socket.
//!
//! # Failure
//! PID 1 never just dies: the kernel would panic without a reason. What cannot be mended is said
//! on the console as `dormouse-agent: FATAL: …`, then the guest powers off.

mod boot;
mod command_line;
mod configure;
mod console;
mod control;
mod error;
mod exec;
mod freezer;
mod home;
mod host_keys;
mod identity;
mod limits;
mod moment;
mod net;
mod port;
mod reaper;
mod shutdown;
mod sleep;
mod sys;
mod wake_at;
mod worker;

use std::panic::catch_unwind;
use std::process::ExitCode;

use error::Error;

use crate::console::{say, say_fatal, say_panics};
use crate::control::Agent;
use crate::port::Control;
use crate::reaper::Reaper;

fn main() -> ExitCode {
    say_panics();
    if std::process::id() == 1 {
        sys::one_arena();
        pid_1();
    }
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    command_line::run(&args)
}

fn pid_1() -> ! {
    match catch_unwind(run_guest) {
        Ok(Ok(())) => say("powering off"),
        Ok(Err(error)) => say_fatal(&error.to_string()),
        Err(_) => say_fatal("a defect of the agent, see above"),
    }
    loop {
        shutdown::power_off();
        std::thread::sleep(limits::POLL_INTERVAL);
    }
}

fn run_guest() -> Result<(), Error> {
    say(&format!("version {}, PID 1", env!("CARGO_PKG_VERSION")));
    let booted = boot::boot()?;
    let device = port::find(agent_proto::CONTROL_PORT)?;
    runtime()?.block_on(async {
        let reaper = Reaper::start()?;
        let (agent, mut stopped) = Agent::in_guest(booted, reaper);
        say(&format!("ready, control channel {}", device.display()));
        tokio::select! {
            error = control::serve_port(agent, device) => Err(error),
            _ = stopped.recv() => Ok(()),
        }
    })
}

fn serve(number: i32) -> Result<(), Error> {
    let socket = sys::inherited_fd(number).map_err(Error::sys(format!("take over fd {number}")))?;
    sys::become_subreaper().map_err(Error::sys("become a subreaper"))?;
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let reaper = Reaper::start()?;
        let (agent, mut stopped) = Agent::beside_others(reaper);
        let control = Control::new(socket)?;
        tokio::select! {
            () = control::serve_stream(&agent, control) => {}
            _ = stopped.recv() => {}
        }
        Ok(())
    });
    runtime.shutdown_background();
    served
}

/// One thread: guests have one processor, and what blocks has threads of its own.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the runtime"))
}
