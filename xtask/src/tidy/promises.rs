//! Every test that the promises name must be there: docs/semantics.md says `crate/path.rs::test`.

use std::fs;
use std::path::Path;

use anyhow::Context;

const PROMISES: &str = "docs/semantics.md";

/// What is named and missing.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let text =
        fs::read_to_string(root.join(PROMISES)).with_context(|| format!("read {PROMISES}"))?;
    let missing = |(line, file, test): &(usize, &str, &str)| {
        let source = fs::read_to_string(root.join("crates").join(file)).unwrap_or_default();
        (!has_test(&source, test)).then(|| {
            format!("{PROMISES}:{line}: there is no {file}::{test}; name the test that holds it, or say \"no test yet\"")
        })
    };
    Ok(named(&text).iter().filter_map(missing).collect())
}

/// Line, file and name of every test.
fn named(text: &str) -> Vec<(usize, &str, &str)> {
    let mut named = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        // Every second part stands in code quotes.
        for code in line.split('`').skip(1).step_by(2) {
            if let Some((file, test)) = code.split_once(".rs::")
                && !file.contains('…')
            {
                named.push((number, &code[..file.len() + 3], test));
            }
        }
    }
    named
}

fn has_test(source: &str, test: &str) -> bool {
    let name = test.rsplit("::").next().unwrap_or(test);
    source.contains(&format!("fn {name}("))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_by_file_and_name() {
        let text = "A promise. `a/src/b.rs::holds`, `plain code`\n`a/src/b.rs::tests::too` `crate/…/x.rs::test`";
        assert_eq!(named(text), [(1, "a/src/b.rs", "holds"), (2, "a/src/b.rs", "tests::too")]);
        let source = "async fn holds() {}\nfn too_long() {}";
        assert!(has_test(source, "holds") && !has_test(source, "tests::too"));
    }
}
