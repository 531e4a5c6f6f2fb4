//! What the text of a source file may not have.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Longest source file, in lines. Most have 100 to 300.
const LINES_MAX: usize = 600;

/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// A text that may stand only below some folders.
#[derive(Debug)]
struct Rule {
    text: &'static str,
    /// Prefixes of paths where it is fine.
    homes: &'static [&'static str],
    /// True where tests may have it too.
    fine_in_tests: bool,
    instead: &'static str,
}

const RULES: &[Rule] = &[
    Rule { text: "todo!(", homes: &[], fine_in_tests: false, instead: "finish it" },
    Rule { text: "unimplemented!(", homes: &[], fine_in_tests: false, instead: "finish it" },
    Rule { text: "dbg!(", homes: &[], fine_in_tests: false, instead: "use tracing" },
    Rule {
        text: "qemu-system",
        homes: &["crates/runtime/", "xtask/"],
        fine_in_tests: true,
        instead: "go through runtime::Runtime",
    },
    Rule {
        text: "env::var",
        homes: &["crates/dormouse/", "crates/testkit/", "fuzz/", "xtask/"],
        fine_in_tests: true,
        instead: "take it as a setting; only the binary reads the environment",
    },
];

/// This folder, which has to spell out what it looks for.
const OURSELVES: &str = "xtask/src/tidy/";

/// What is wrong with the sources below `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("fuzz"), root.join("xtask")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("read {}", path.display()))?;
                let short = path.strip_prefix(root).map(PathBuf::from).unwrap_or(path);
                findings.extend(check_file(&short.to_string_lossy(), &text));
            }
        }
    }
    findings.extend(
        LONG_FILES
            .iter()
            .filter(|(path, _)| !root.join(path).exists())
            .map(|(path, _)| format!("{path}: is gone; remove it from xtask/src/tidy/sources.rs")),
    );
    findings.sort();
    Ok(findings)
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX && !LONG_FILES.iter().any(|(long, _)| *long == path) {
        findings.push(format!("{path}: {lines} lines, at most {LINES_MAX}; split it"));
    }
    if path.starts_with(OURSELVES) {
        return findings;
    }
    let is_test_file = path.contains("/tests/") || path.ends_with("/tests.rs");
    let tests_from = text.lines().position(|line| line.trim_start().starts_with("#[cfg(test)]"));
    for rule in RULES {
        if rule.homes.iter().any(|home| path.starts_with(home)) {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            let in_test = is_test_file || tests_from.is_some_and(|from| at > from);
            if line.contains(rule.text) && !(in_test && rule.fine_in_tests) {
                let at = at + 1;
                findings.push(format!("{path}:{at}: {}…: {}", rule.text, rule.instead));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_is_found_anywhere() {
        assert_eq!(check_file("crates/a/src/lib.rs", "fn f() {\n    todo!()\n}\n").len(), 1);
        assert_eq!(check_file("crates/a/tests/it/x.rs", "todo!()").len(), 1);
    }

    #[test]
    fn the_environment_is_read_by_the_binary_and_by_tests() {
        let line = "std::env::var(\"HOME\")";
        assert_eq!(
            check_file("crates/control/src/lib.rs", line),
            [
                "crates/control/src/lib.rs:1: env::var…: take it as a setting; only the binary reads \
              the environment"
            ]
        );
        assert!(check_file("crates/dormouse/src/main.rs", line).is_empty());
        assert!(
            check_file("crates/control/src/lib.rs", &format!("#[cfg(test)]\n{line}")).is_empty()
        );
        assert!(check_file("crates/control/tests/it/main.rs", line).is_empty());
    }

    #[test]
    fn a_long_file_is_found() {
        let findings = check_file("crates/a/src/lib.rs", &"//\n".repeat(LINES_MAX + 1));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].contains("split it"));
    }
}
