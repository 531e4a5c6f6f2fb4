//! Which crate may use which.
//!
//! Ours: a crate uses crates of lower levels only. Theirs: a crate that binds us to something outside
//! (a database, a wire format, a store) has a few named homes, so that it can be replaced there.

use std::collections::BTreeSet;

use anyhow::Context;
use serde::Deserialize;

use crate::cargo::{cargo, run_quietly};

/// Our crates by level; each may use those above it in this list.
const LEVELS: &[&[&str]] = &[
    &["base", "guest-ring", "linger", "nbd-serve"],
    &["objstore", "chunks", "vfs", "agent-proto", "catalog", "runtime", "images", "sqlite-pages"],
    &["homefs", "upper", "volumes", "fuse-serve", "auth", "client"],
    &["keeper", "guest-agent"],
    &["control"],
    &["http-kit", "local-host"],
    &["api-v1", "api-computers", "api-sheds", "api-sailboxes", "ssh-server"],
    &["dormouse"],
    &["testkit", "sim", "fuzz", "xtask"],
];

/// For tests only: may use anything, and any test may use them.
const DEV_ONLY: &[&str] = &["testkit", "sim", "fuzz"];

/// Pairs that the levels allow and the design does not: a face knows no keeper internals.
const FORBIDDEN: &[(&str, &str)] = &[
    ("api-v1", "keeper"),
    ("api-v1", "homefs"),
    ("api-v1", "catalog"),
    ("api-v1", "local-host"),
    ("http-kit", "keeper"),
    ("http-kit", "homefs"),
];

/// Foreign crates that only some of ours may use.
const HOMES: &[(&str, &[&str])] = &[
    ("anyhow", &["dormouse", "xtask"]),
    ("axum", &["linger", "keeper", "http-kit", "api-v1", "dormouse"]),
    ("chacha20poly1305", &["objstore"]),
    ("clap", &["dormouse", "xtask"]),
    ("hickory-proto", &["runtime"]),
    ("lz4_flex", &["images"]),
    ("metrics-exporter-prometheus", &["http-kit", "dormouse"]),
    ("object_store", &["objstore"]),
    ("reqwest", &["client"]),
    ("rusqlite", &["homefs", "catalog", "sqlite-pages"]),
    ("tokio-tungstenite", &["client"]),
    ("toml", &["dormouse"]),
    ("tracing-subscriber", &["dormouse"]),
    ("utoipa", &["http-kit", "api-v1"]),
    ("vm-memory", &["guest-ring"]),
    ("yamux", &["agent-proto"]),
];

/// A crate of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `None`, `dev` or `build`.
    kind: Option<String>,
    /// Where it is, if it is ours.
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// The crates of this workspace, as cargo sees them.
pub(crate) fn packages() -> anyhow::Result<Vec<Package>> {
    let json =
        run_quietly(cargo().args(["metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_slice(&json).context("read cargo metadata")?;
    Ok(metadata.packages)
}

/// What is wrong.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages {
        let Some(level) = level(&package.name) else {
            findings.push(format!(
                "{}: has no level; give it one in xtask/src/tidy/layers.rs",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            findings.extend(check_one(&package.name, level, dependency));
        }
    }
    findings.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn check_one(user: &str, level: usize, dependency: &Dependency) -> Option<String> {
    let used = dependency.name.as_str();
    let for_tests = dependency.kind.as_deref() == Some("dev");
    if dependency.path.is_none() {
        let (_, homes) = HOMES.iter().find(|(name, _)| *name == used && !for_tests)?;
        let homes = (!homes.contains(&user) && !DEV_ONLY.contains(&user)).then_some(homes)?;
        return Some(format!("{user}: must not use {used}; that is for {}", homes.join(", ")));
    }
    if DEV_ONLY.contains(&used) {
        return (!for_tests && !DEV_ONLY.contains(&user))
            .then(|| format!("{user}: {used} is for tests; make it a dev-dependency"));
    }
    let used_level = self::level(used)?;
    let allowed = used_level < level || (for_tests && used_level == level);
    if !allowed {
        return Some(format!(
            "{user} (level {level}): must not use {used} (level {used_level}); dependencies point down"
        ));
    }
    FORBIDDEN
        .contains(&(user, used))
        .then(|| format!("{user}: must not use {used}; go through control"))
}

fn level(name: &str) -> Option<usize> {
    LEVELS.iter().position(|crates| crates.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(user: &str, used: &str, kind: Option<&str>, ours: bool) -> Vec<String> {
        check(&[Package {
            name: user.to_owned(),
            dependencies: vec![Dependency {
                name: used.to_owned(),
                kind: kind.map(str::to_owned),
                path: ours.then(String::new),
            }],
        }])
    }

    #[test]
    fn a_crate_uses_lower_levels_only() {
        assert!(uses("homefs", "objstore", None, true).is_empty());
        assert_eq!(uses("objstore", "homefs", None, true).len(), 1);
        assert_eq!(uses("vfs", "objstore", None, true).len(), 1, "nor its own level");
        assert!(uses("runtime", "images", Some("dev"), true).is_empty(), "but in tests");
        assert_eq!(uses("runtime", "keeper", Some("dev"), true).len(), 1);
    }

    #[test]
    fn a_face_knows_no_keeper_and_no_other_face() {
        assert!(uses("api-v1", "control", None, true).is_empty());
        assert_eq!(uses("api-v1", "keeper", None, true).len(), 1);
        assert_eq!(uses("api-v1", "api-sheds", None, true).len(), 1);
    }

    #[test]
    fn a_foreign_crate_stays_in_its_homes() {
        assert!(uses("catalog", "rusqlite", None, false).is_empty());
        assert_eq!(uses("control", "rusqlite", None, false).len(), 1);
        assert!(uses("control", "rusqlite", Some("dev"), false).is_empty());
        assert!(uses("control", "serde", None, false).is_empty());
    }

    #[test]
    fn test_support_never_ends_up_in_the_product() {
        assert!(uses("homefs", "testkit", Some("dev"), true).is_empty());
        assert_eq!(uses("homefs", "testkit", None, true).len(), 1);
    }

    #[test]
    fn a_new_crate_needs_a_level() {
        assert_eq!(uses("newcomer", "serde", None, false).len(), 1);
    }
}
