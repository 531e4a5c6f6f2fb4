use super::*;

#[test]
fn questions_are_read_at_a_rate_after_a_burst() {
    let mut pace = Pace::new();
    let now = pace.since;
    let burst = (0..1_000).take_while(|_| pace.take(now).is_zero()).count();
    assert_eq!(burst, 400);
    assert!(pace.take(now) > Duration::from_millis(10), "who is ahead waits longer");
    let later = now + Duration::from_secs(60);
    assert!(pace.take(later).is_zero());
    assert!(pace.left <= QUESTIONS_BURST, "a pause saves up one burst at most");
}
