//! `dormouse exec`: a command in a machine as if it ran here.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use base::ErrorKind;
use clap::Args;
use client::{ExecEvent, ExecInput, ExecRequest};
use tokio::io::AsyncReadExt;

use super::ServerArgs;
use crate::Failure;

/// What a shell returns for a command that could not be started.
const NOT_STARTED: u8 = 127;
/// What a shell adds to the number of a signal.
const BY_SIGNAL: i32 = 128;

/// Flags of `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Name or id.
    name: String,
    /// Working directory in the machine [default: /root].
    #[arg(long)]
    cwd: Option<String>,
    /// A variable for the command; may be repeated.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn exec(args: ExecArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let stdin = !std::io::stdin().is_terminal();
    let request =
        ExecRequest { command: args.command, cwd: args.cwd, env: variables(&args.env)?, stdin };
    let (mut session, mut input) = client.exec(&args.name, &request).await?;
    let feeder = tokio::spawn(async move {
        if stdin {
            feed(&mut input).await;
        }
        // Ctrl-C is the command's to answer.
        while tokio::signal::ctrl_c().await.is_ok() {
            if input.signal(nix::libc::SIGINT).await.is_err() {
                break;
            }
        }
    });
    let code = loop {
        match session.next().await? {
            Some(ExecEvent::Started(_)) => {}
            Some(ExecEvent::Stdout(bytes)) => write(&mut std::io::stdout(), &bytes)?,
            Some(ExecEvent::Stderr(bytes)) => write(&mut std::io::stderr(), &bytes)?,
            Some(ExecEvent::Exited { code, signal, error }) => {
                if let Some(error) = error {
                    eprintln!("dormouse: {error}");
                }
                break exit_code(code, signal);
            }
            None => {
                return Err(Failure::new(
                    ErrorKind::Unreachable,
                    "the connection ended before the command did; it may still be running",
                ));
            }
        }
    };
    feeder.abort();
    Ok(code)
}

/// What a shell would return.
fn exit_code(code: Option<i32>, signal: Option<i32>) -> u8 {
    match (code, signal) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(1),
        (None, Some(signal)) => u8::try_from(BY_SIGNAL.wrapping_add(signal) & 0xff).unwrap_or(1),
        (None, None) => NOT_STARTED,
    }
}

/// Hands standard input on until it ends, or the command no longer takes it.
async fn feed(input: &mut ExecInput) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let got = stdin.read(&mut buffer).await.unwrap_or(0);
        // Empty is the end, for the command too.
        if input.stdin(&buffer[..got]).await.is_err() || got == 0 {
            return;
        }
    }
}

fn write(to: &mut impl Write, bytes: &[u8]) -> Result<(), Failure> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(|error| {
        Failure::new(ErrorKind::Internal, format!("write the command's output: {error}"))
    })
}

fn variables(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Failure::new(
                ErrorKind::InvalidArgument,
                "--env takes NAME=VALUE; one of them has no name or no =",
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_one_a_shell_returns() {
        assert_eq!(exit_code(Some(0), None), 0);
        assert_eq!(exit_code(Some(256 + 3), None), 3);
        assert_eq!(exit_code(None, Some(9)), 137);
        assert_eq!(exit_code(None, None), NOT_STARTED);
        // What a server says that is not ours ends nothing here.
        assert_eq!(exit_code(None, Some(i32::MAX)), 0x7f);
    }

    #[test]
    fn a_variable_has_a_name_and_may_have_any_value() {
        let pairs = ["A=1".to_owned(), "B=x=y".to_owned(), "C=".to_owned()];
        let found: Vec<_> = variables(&pairs).unwrap().into_iter().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(found, [pair("A", "1"), pair("B", "x=y"), pair("C", "")]);
        for bad in ["A", "=1", ""] {
            assert!(variables(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
