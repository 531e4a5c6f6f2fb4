//! From a request to what `execve` takes. Pure.

use std::collections::BTreeMap;
use std::ffi::CString;

use agent_proto::Exec;

use crate::Error;
use crate::limits::PATH_DIRECTORIES_MAX;

/// At its end the agent's own program, which the boot puts there: the machine's come first.
const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/dormouse/bin";
const DEFAULT_CWD: &str = "/root";

/// What to run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// Paths to try in turn.
    pub(super) candidates: Vec<CString>,
    pub(super) cwd: CString,
}

/// Checks `exec` and fills in the defaults.
pub(super) fn plan(exec: &Exec) -> Result<Plan, Error> {
    let program = exec.command.first().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| Error::Invalid("no program to run".to_owned()))?;
    let mut env = BTreeMap::from([
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("PATH", DEFAULT_PATH),
        ("USER", "root"),
    ]);
    for (name, value) in &exec.env {
        if name.is_empty() || name.contains('=') {
            return Err(Error::Invalid(format!("not a name for a variable: {name:?}")));
        }
        env.insert(name, value);
    }
    let candidates = candidates(program, env.get("PATH").copied().unwrap_or(DEFAULT_PATH));
    let mut variables = Vec::with_capacity(env.len());
    for (name, value) in env {
        variables.push(c_string(format!("{name}={value}"))?);
    }
    let all = |strings: Vec<String>| strings.into_iter().map(c_string).collect::<Result<_, _>>();
    Ok(Plan {
        argv: all(exec.command.clone())?,
        env: variables,
        candidates: all(candidates)?,
        cwd: c_string(exec.cwd.clone().unwrap_or_else(|| DEFAULT_CWD.to_owned()))?,
    })
}

fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let directories = path.split(':').take(PATH_DIRECTORIES_MAX);
    // An empty entry means the working directory, as everywhere else.
    directories
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .map(|directory| format!("{directory}/{program}"))
        .collect()
}

fn c_string(text: String) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Invalid("a NUL byte in command, cwd or env".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(command: &[&str], env: &[(&str, &str)]) -> Exec {
        Exec {
            command: command.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Exec::default()
        }
    }

    fn texts(strings: &[CString]) -> Vec<&str> {
        strings.iter().map(|s| s.to_str().unwrap()).collect()
    }

    #[test]
    fn defaults_fill_in_what_is_not_given() {
        let plan = plan(&exec(&["true"], &[("LANG", "de_DE"), ("A", "b=c")])).unwrap();
        assert_eq!(plan.cwd.to_str(), Ok("/root"));
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(texts(&plan.env), ["A=b=c", "HOME=/root", "LANG=de_DE", &path, "USER=root"]);
        assert_eq!(plan.candidates.len(), 7);
        assert_eq!(plan.candidates[3].to_str(), Ok("/usr/bin/true"));
    }

    #[test]
    fn the_callers_path_is_searched() {
        let found = plan(&exec(&["tool"], &[("PATH", "/opt/bin::x")])).unwrap();
        assert_eq!(texts(&found.candidates), ["/opt/bin/tool", "./tool", "x/tool"]);
        let found = plan(&exec(&["./tool"], &[("PATH", "/opt/bin")])).unwrap();
        assert_eq!(texts(&found.candidates), ["./tool"]);
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for wrong in [
            exec(&[], &[]),
            exec(&[""], &[]),
            exec(&["a\0b"], &[]),
            exec(&["a"], &[("", "x")]),
            exec(&["a"], &[("A=B", "x")]),
            exec(&["a"], &[("A", "x\0")]),
            Exec { cwd: Some("\0".into()), ..exec(&["a"], &[]) },
        ] {
            assert!(plan(&wrong).is_err(), "{wrong:?}");
        }
    }
}
