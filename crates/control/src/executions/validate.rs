//! Checks of what callers want to run.

use super::NewExecution;
use crate::limits::{EXECUTION_BYTES_MAX, STDIN_BYTES_MAX, TIMEOUT_MS_MAX};
use crate::{Error, Result};

/// Checks a command before anything wakes for it. No value of a variable gets into a message.
pub(crate) fn check(new: &NewExecution) -> Result<()> {
    if new.command.first().is_none_or(String::is_empty) {
        return Err(field("command", "command needs at least a program"));
    }
    let nul = |text: &String| text.contains('\0');
    if new.command.iter().any(nul) || new.cwd.as_ref().is_some_and(nul) {
        return Err(field("command", "command and cwd must not contain NUL"));
    }
    if new.env.keys().any(|key| key.is_empty() || key.contains(['=', '\0'])) {
        return Err(field("env", "a variable's name is not empty and has no = and no NUL"));
    }
    if new.env.values().any(nul) {
        return Err(field("env", "a variable's value must not contain NUL"));
    }
    let command: usize = new.command.iter().map(String::len).sum();
    let env: usize = new.env.iter().map(|(key, value)| key.len() + value.len()).sum();
    if command + env + new.cwd.as_ref().map_or(0, String::len) > EXECUTION_BYTES_MAX {
        return Err(too_large(format!(
            "command, cwd and env have at most {EXECUTION_BYTES_MAX} bytes together; put large input \
             into a file"
        )));
    }
    if new.stdin.as_ref().is_some_and(|stdin| stdin.len() > STDIN_BYTES_MAX) {
        return Err(too_large(format!(
            "stdin has at most {STDIN_BYTES_MAX} bytes; put large input into a file, or attach"
        )));
    }
    if new.timeout_ms.is_some_and(|timeout| timeout > TIMEOUT_MS_MAX) {
        return Err(field("timeout_ms", format!("timeout_ms is at most {TIMEOUT_MS_MAX}")));
    }
    Ok(())
}

fn field(name: &str, message: impl Into<String>) -> Error {
    Error::invalid(message).with_detail("field", name)
}

fn too_large(message: String) -> Error {
    Error::new(base::ErrorKind::TooLarge, message)
}

#[cfg(test)]
mod tests {
    use base::ErrorKind;

    use super::*;

    fn checked(change: impl FnOnce(&mut NewExecution)) -> Result<()> {
        let mut new = NewExecution { command: vec!["true".to_owned()], ..Default::default() };
        change(&mut new);
        check(&new)
    }

    #[test]
    fn what_no_guest_could_run_is_refused() {
        assert!(checked(|_| ()).is_ok());
        let invalid: [fn(&mut NewExecution); 6] = [
            |new| new.command.clear(),
            |new| new.command[0].clear(),
            |new| new.command.push("a\0b".to_owned()),
            |new| drop(new.env.insert("A=B".to_owned(), String::new())),
            |new| drop(new.env.insert(String::new(), String::new())),
            |new| new.timeout_ms = Some(u64::MAX),
        ];
        for change in invalid {
            assert_eq!(checked(change).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        let large: [fn(&mut NewExecution); 2] = [
            |new| new.command.push("x".repeat(EXECUTION_BYTES_MAX)),
            |new| new.stdin = Some("x".repeat(STDIN_BYTES_MAX + 1)),
        ];
        for change in large {
            assert_eq!(checked(change).unwrap_err().kind(), ErrorKind::TooLarge);
        }
    }

    #[test]
    fn no_secret_gets_into_a_message_or_a_log() {
        let secret = "hunter2\0";
        let mut new = NewExecution { command: vec!["true".to_owned()], ..Default::default() };
        new.env.insert("TOKEN".to_owned(), secret.to_owned());
        new.stdin = Some("hunter2".to_owned());
        assert!(!check(&new).unwrap_err().message.contains("hunter2"));
        assert!(!format!("{new:?}").contains("hunter2"));
    }
}
