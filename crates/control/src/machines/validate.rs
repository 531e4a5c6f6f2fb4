//! Checks of what callers ask for, before anything is written down.

use base::{Egress, PRIVATE_RANGES, UNREACHABLE_RANGES};
use catalog::{Fsync, MachineSpec};

use super::duration::{check_autosleep, parse_autosleep};
use super::types::{CreateMachine, EgressWish, UpdateMachine};
use crate::limits::{IMAGE_LENGTH_MAX, MEMORY_MIB_MIN, NAME_LENGTH_MAX};
use crate::settings::{Defaults, SizeLimits};
use crate::{Error, Result};

/// A possible machine name: what a DNS label allows, so that it can be a host name.
pub(crate) fn name(text: &str) -> Result<()> {
    let fits = !text.is_empty()
        && text.len() <= NAME_LENGTH_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if !fits {
        return Err(field(
            "name",
            "a machine's name has 1 to 63 characters out of a-z, 0-9 and -, with no - at its ends",
        ));
    }
    // An id in the place of a name could then mean two machines.
    if text.parse::<base::MachineId>().is_ok() {
        return Err(field("name", "a machine's name must not look like a machine's id"));
    }
    Ok(())
}

/// The spec of a new machine.
pub(crate) fn new_spec(
    new: &CreateMachine,
    defaults: &Defaults,
    limits: &SizeLimits,
) -> Result<MachineSpec> {
    let spec = MachineSpec {
        vcpu: new.vcpu.unwrap_or(defaults.vcpu),
        memory_mib: new.memory_mib.unwrap_or(defaults.memory_mib),
        storage_gib: new.storage_gib.unwrap_or(defaults.storage_gib),
        autosleep_seconds: autosleep(new.autosleep.as_deref(), new.autosleep_seconds)?
            .unwrap_or(defaults.autosleep_seconds),
        image: new.image.clone().unwrap_or_else(|| defaults.image.clone()),
        fsync: fsync(new.fsync.as_deref())?.unwrap_or_default(),
        egress: egress(new.egress.as_ref(), limits)?.unwrap_or_default(),
    };
    image(&spec.image)?;
    sizes(&spec, limits)?;
    Ok(spec)
}

/// Refuses an image that was asked for by name and that is not among those `there`.
pub(crate) fn known_image(name: &str, there: &[String]) -> Result<()> {
    if there.iter().any(|other| other == name) {
        return Ok(());
    }
    let there = match there {
        [] => "it has none: `dormouse doctor` says how to make one".to_owned(),
        some => format!("it has {}", some.join(", ")),
    };
    Err(field("image", format!("there is no image {name} on this server; {there}")))
}

/// The spec after an update.
pub(crate) fn updated_spec(
    before: &MachineSpec,
    update: &UpdateMachine,
    limits: &SizeLimits,
) -> Result<MachineSpec> {
    let spec = MachineSpec {
        vcpu: update.vcpu.unwrap_or(before.vcpu),
        memory_mib: update.memory_mib.unwrap_or(before.memory_mib),
        storage_gib: update.storage_gib.unwrap_or(before.storage_gib),
        autosleep_seconds: autosleep(update.autosleep.as_deref(), update.autosleep_seconds)?
            .unwrap_or(before.autosleep_seconds),
        image: before.image.clone(),
        fsync: fsync(update.fsync.as_deref())?.unwrap_or(before.fsync),
        egress: egress(update.egress.as_ref(), limits)?.unwrap_or_else(|| before.egress.clone()),
    };
    if spec.storage_gib < before.storage_gib {
        return Err(field(
            "storage_gib",
            format!("storage only grows: it is {} GiB now", before.storage_gib),
        ));
    }
    // Sizes that were granted once stay valid when the limits are lowered later.
    if (spec.vcpu, spec.memory_mib, spec.storage_gib)
        != (before.vcpu, before.memory_mib, before.storage_gib)
    {
        sizes(&spec, limits)?;
    }
    Ok(spec)
}

fn autosleep(text: Option<&str>, seconds: Option<u64>) -> Result<Option<u64>> {
    match (text, seconds) {
        (Some(text), _) => parse_autosleep(text).map(Some),
        (None, Some(seconds)) => check_autosleep(seconds).map(Some),
        (None, None) => Ok(None),
    }
}

fn fsync(text: Option<&str>) -> Result<Option<Fsync>> {
    let Some(text) = text else { return Ok(None) };
    let known = Fsync::parse(text);
    known.map(Some).ok_or_else(|| field("fsync", "fsync is \"store\" or \"local\""))
}

/// A policy that this server can hold a machine to.
fn egress(wish: Option<&EgressWish>, limits: &SizeLimits) -> Result<Option<Egress>> {
    let Some(EgressWish { policy, allow }) = wish else { return Ok(None) };
    let bad = |what: &str| Err(field("egress", what));
    let egress = match (policy.as_deref(), allow.as_deref()) {
        (Some("open"), None | Some([])) => Egress::Open,
        (Some("none"), None | Some([])) => Egress::None,
        (Some("allow") | None, Some(rules @ [_, ..])) => {
            Egress::allow(rules).map_err(|error| field("egress", error.to_string()))?
        }
        (Some("allow"), _) => {
            return bad("an allow-list names something; none is the policy without");
        }
        (Some("open" | "none"), _) => return bad("a list goes with the policy allow"),
        _ => {
            return bad(
                "egress has a policy, \"open\", \"none\" or \"allow\", and for that a list, allow",
            );
        }
    };
    for range in egress.ranges() {
        let is_within = |any: &[base::Ipv4Range]| any.iter().any(|other| range.is_within(*other));
        if is_within(&UNREACHABLE_RANGES) {
            return Err(field(
                "egress",
                format!("{range} is reached by no machine, whatever allows it"),
            ));
        }
        if is_within(&PRIVATE_RANGES) && !is_within(&limits.private_ranges) {
            let what = "is private, and no range that this server lets machines reach (egress_private_ranges)";
            return Err(field("egress", format!("{range} {what}")));
        }
    }
    if egress != Egress::Open && !limits.egress_enforced {
        return bad(
            "this server's network mode cannot hold machines to an egress policy; it needs isolated",
        );
    }
    Ok(Some(egress))
}

fn image(text: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let fits = !text.is_empty() && text.len() <= IMAGE_LENGTH_MAX && text.bytes().all(allowed);
    if fits && !text.contains("..") && !text.starts_with('/') {
        Ok(())
    } else {
        Err(field(
            "image",
            "an image's name has 1 to 255 characters out of a-z, A-Z, 0-9, . _ - / : @",
        ))
    }
}

fn sizes(spec: &MachineSpec, limits: &SizeLimits) -> Result<()> {
    let quarters = spec.vcpu * 4.0;
    if !(quarters.is_finite() && quarters >= 1.0 && quarters.fract() == 0.0) {
        return Err(field("vcpu", "vcpu goes in quarter steps from 0.25"));
    }
    if spec.vcpu > limits.vcpu_max {
        return Err(field("vcpu", format!("vcpu is at most {} on this server", limits.vcpu_max)));
    }
    if !(MEMORY_MIB_MIN..=limits.memory_mib_max).contains(&spec.memory_mib) {
        return Err(field(
            "memory_mib",
            format!("memory_mib is {MEMORY_MIB_MIN} to {} on this server", limits.memory_mib_max),
        ));
    }
    if !(1..=limits.storage_gib_max).contains(&spec.storage_gib) {
        return Err(field(
            "storage_gib",
            format!("storage_gib is 1 to {} on this server", limits.storage_gib_max),
        ));
    }
    Ok(())
}

fn field(name: &str, message: impl Into<String>) -> Error {
    Error::invalid(message).with_detail("field", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(change: impl FnOnce(&mut CreateMachine)) -> Result<MachineSpec> {
        let mut new = CreateMachine::default();
        change(&mut new);
        new_spec(&new, &Defaults::default(), &SizeLimits::default())
    }

    #[test]
    fn an_image_that_is_not_there_is_refused_with_those_that_are() {
        let there = ["base".to_owned(), "python".to_owned()];
        assert!(known_image("base", &there).is_ok());
        let refused = known_image("bsae", &there).unwrap_err();
        assert_eq!(refused.kind(), base::ErrorKind::InvalidArgument);
        assert!(refused.to_string().contains("it has base, python"), "{refused}");
        assert!(known_image("base", &[]).unwrap_err().to_string().contains("doctor"));
    }

    #[test]
    fn a_machine_needs_nothing_said() {
        let spec = create(|_| ()).unwrap();
        assert_eq!((spec.vcpu, spec.autosleep_seconds), (1.0, 300));
    }

    #[test]
    fn sizes_out_of_bounds_name_their_field() {
        type Change = fn(&mut CreateMachine);
        let bad: [(&str, Change); 10] = [
            ("vcpu", |new| new.vcpu = Some(0.0)),
            ("vcpu", |new| new.vcpu = Some(0.3)),
            ("vcpu", |new| new.vcpu = Some(f64::NAN)),
            ("vcpu", |new| new.vcpu = Some(1e9)),
            ("memory_mib", |new| new.memory_mib = Some(127)),
            ("memory_mib", |new| new.memory_mib = Some(u64::MAX)),
            ("storage_gib", |new| new.storage_gib = Some(0)),
            ("autosleep", |new| new.autosleep = Some("soon".to_owned())),
            ("image", |new| new.image = Some("../../etc".to_owned())),
            ("fsync", |new| new.fsync = Some("never".to_owned())),
        ];
        for (name, change) in bad {
            let error = create(change).unwrap_err();
            assert_eq!(error.details["field"], name, "{error}");
        }
        assert_eq!(create(|new| new.vcpu = Some(0.25)).unwrap().vcpu, 0.25);
    }

    #[test]
    fn fsync_is_the_stores_unless_asked_for() {
        let limits = SizeLimits::default();
        assert_eq!(create(|_| ()).unwrap().fsync, Fsync::Store);
        let local = create(|new| new.fsync = Some("local".to_owned())).unwrap();
        assert_eq!(local.fsync, Fsync::Local);
        let update = |fsync: Option<&str>| UpdateMachine {
            fsync: fsync.map(str::to_owned),
            ..Default::default()
        };
        assert_eq!(updated_spec(&local, &update(None), &limits).unwrap().fsync, Fsync::Local);
        let store = updated_spec(&local, &update(Some("store")), &limits).unwrap();
        assert_eq!(store.fsync, Fsync::Store);
    }

    #[test]
    fn an_egress_policy_is_one_that_the_server_can_hold_a_machine_to() {
        let wish = |policy: Option<&str>, allow: Option<&[&str]>| EgressWish {
            policy: policy.map(str::to_owned),
            allow: allow.map(|rules| rules.iter().map(|rule| (*rule).to_owned()).collect()),
        };
        let limits = SizeLimits {
            private_ranges: vec!["10.1.0.0/16".parse().unwrap()],
            ..Default::default()
        };
        let said =
            |wish: &EgressWish| egress(Some(wish), &limits).map(|said| said.unwrap().to_string());
        for (wish, text) in [
            (wish(Some("open"), None), "open"),
            (wish(Some("none"), Some(&[])), "none"),
            (wish(Some("allow"), Some(&["B.example", "a.example"])), "allow=a.example,b.example"),
            (wish(None, Some(&["10.1.2.0/24", "0.0.0.0/0"])), "allow=0.0.0.0/0,10.1.2.0/24"),
        ] {
            assert_eq!(said(&wish).unwrap(), text);
        }
        for bad in [
            wish(None, None),
            wish(Some("all"), None),
            wish(Some("allow"), None),
            wish(Some("allow"), Some(&[])),
            wish(None, Some(&[])),
            wish(Some("none"), Some(&["a.example"])),
            wish(Some("allow"), Some(&["*"])),
            wish(None, Some(&["10.2.0.0/16"])),
            wish(None, Some(&["10.0.0.0/8"])),
            wish(None, Some(&["169.254.169.254"])),
            wish(None, Some(&["127.0.0.1", "a.example"])),
        ] {
            let error = said(&bad).unwrap_err();
            assert_eq!(error.details["field"], "egress", "{bad:?}: {error}");
        }
        let unable = SizeLimits { egress_enforced: false, ..limits.clone() };
        assert!(egress(Some(&wish(Some("none"), None)), &unable).is_err());
        assert!(egress(Some(&wish(Some("open"), None)), &unable).is_ok());
        let before = create(|new| new.egress = Some(wish(Some("none"), None))).unwrap();
        let kept = updated_spec(&before, &UpdateMachine::default(), &limits).unwrap();
        assert_eq!(kept.egress, Egress::None, "what is not named stays");
    }

    #[test]
    fn storage_only_grows() {
        let before = create(|_| ()).unwrap();
        let update = |gib| UpdateMachine { storage_gib: Some(gib), ..Default::default() };
        let limits = SizeLimits::default();
        assert_eq!(updated_spec(&before, &update(11), &limits).unwrap().storage_gib, 11);
        let error = updated_spec(&before, &update(9), &limits).unwrap_err();
        assert_eq!(error.details["field"], "storage_gib");
    }

    #[test]
    fn names_are_host_names_and_never_ids() {
        for good in ["a", "user-42", "0", &"x".repeat(63)] {
            assert!(name(good).is_ok(), "{good}");
        }
        let id = base::MachineId::generate();
        for bad in ["", "A", "a_b", "a.b", "-a", "a-", "ä", &"x".repeat(64), id.as_str()] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
