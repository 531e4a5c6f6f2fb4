//! When an answer of a home and one of the model are the same.

use vfs::{Attr, Kind, Owner, Result};

/// What is compared of an answer.
pub(super) fn plain(attr: &Attr) -> (Kind, u32, u32, Owner, u32, u64) {
    let size = if attr.kind == Kind::Directory { 0 } else { attr.size };
    (attr.kind, attr.perm, attr.nlink, attr.owner, attr.rdev, size)
}

/// The answer of both; an empty sentence where both gave the same error.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(
    ours: Result<T>,
    model: Result<T>,
) -> Result<T, String> {
    match (ours, model) {
        (Ok(ours), Ok(model)) if ours == model => Ok(ours),
        (Err(ours), Err(model)) if ours.errno() == model.errno() => Err(String::new()),
        (ours, model) => {
            let show =
                |answer: &Result<T>| format!("{answer:?}").chars().take(300).collect::<String>();
            Err(format!("the home answers {}, the model {}", show(&ours), show(&model)))
        }
    }
}

/// An equal error is as good as an equal answer.
pub(super) fn agreed<T>(answer: Result<T, String>) -> Result<Option<T>, String> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(what) if what.is_empty() => Ok(None),
        Err(what) => Err(what),
    }
}

/// Both did the same, and there is nothing more to an answer.
pub(super) fn both(ours: Result<()>, model: Result<()>) -> Result<(), String> {
    agreed(same(ours, model)).map(drop)
}
