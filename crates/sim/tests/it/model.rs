//! A home and a tree in memory, side by side.

#[test]
fn a_home_answers_as_a_tree_in_memory_does() {
    let outcome = sim::seeds(0..90, 4, |seed| sim::model::run(seed, sim::model::CALLS));
    assert!(outcome.failed.is_empty(), "{}", outcome.failed[0]);
    assert!(outcome.total >= 36_000, "{} calls", outcome.total);
}
