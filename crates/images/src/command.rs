//! Runs the few programs that building and formatting need.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use crate::Error;
use crate::limits::STDERR_BYTES_MAX;

/// Runs `command` to its end and returns its standard output.
///
/// `package` is the Debian package that has the program; it goes into the error where it is missing.
pub(crate) fn run(command: &mut Command, package: &'static str) -> Result<Vec<u8>, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    tracing::debug!(?command, "run");
    let output = command.stdin(Stdio::null()).output().map_err(|source| {
        if source.kind() == ErrorKind::NotFound {
            Error::ProgramMissing { program: program.clone(), package }
        } else {
            Error::Io { doing: "run", path: program.clone().into(), source }
        }
    })?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let status = output.status.to_string();
        Err(Error::Program { program, status, stderr: tail(&output.stderr) })
    }
}

/// A [`Command`] whose `PATH` also has the sbin folders, where an ordinary user's often lacks them.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8");
    if let Some(path) = find(program) {
        command = Command::new(path);
        command.env("LC_ALL", "C.UTF-8");
    }
    command
}

/// Where `program` is if it lies in one of the sbin folders.
fn find(program: &str) -> Option<std::path::PathBuf> {
    ["/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| std::path::Path::new(dir).join(program))
        .find(|p| p.exists())
}

fn tail(stderr: &[u8]) -> String {
    let start = stderr.len().saturating_sub(STDERR_BYTES_MAX);
    String::from_utf8_lossy(&stderr[start..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = run(&mut command("dormouse-no-such-program"), "no-such-package").unwrap_err();
        assert_eq!(
            error.to_string(),
            "dormouse-no-such-program is not installed; install it with `apt-get install \
             no-such-package`"
        );
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let error = run(command("sh").args(["-c", "echo broken >&2; exit 3"]), "dash").unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): broken");
    }
}
