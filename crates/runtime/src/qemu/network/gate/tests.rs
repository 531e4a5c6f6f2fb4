use super::*;

fn filter(egress: &str) -> Filter {
    let egress: Arc<Egress> = Arc::new(egress.parse().unwrap());
    let shared = Arc::new(Mutex::new(egress.clone()));
    Filter { egress, around: Surroundings::default(), generation: 0, held: HashMap::new(), shared }
}

fn resolved(name: &str, addresses: &[(Ipv4Addr, u32)]) -> Resolved {
    Resolved { name: name.to_owned(), addresses: addresses.to_vec() }
}

#[test]
fn public_addresses_of_allowed_names_are_granted_for_as_long_as_they_live_and_a_minute() {
    let mut filter = filter("allow=example.com");
    let (good, other) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let inner =
        [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(169, 254, 169, 254)];
    let addresses: Vec<(Ipv4Addr, u32)> =
        [good].iter().chain(&inner).map(|address| (*address, 300)).collect();
    let granted: Vec<Grant> = filter.hold(resolved("example.com", &addresses)).collect();
    assert_eq!(granted, [Grant { address: good, lasts: Duration::from_secs(360) }]);
    // Known already: asked again, it needs no other grant.
    assert_eq!(filter.hold(resolved("example.com", &[(good, 299)])).count(), 0);
    assert_eq!(filter.hold(resolved("example.com", &[(good, 3_600)])).count(), 1);
    assert_eq!(filter.hold(resolved("other.com", &[(other, 300)])).count(), 0);
    let for_ever: Vec<Grant> = filter.hold(resolved("example.com", &[(other, u32::MAX)])).collect();
    assert_eq!(for_ever[0].lasts, GRANT_MAX + GRANT_GRACE);
    let at_once: Vec<Grant> =
        filter.hold(resolved("example.com", &[(Ipv4Addr::new(192, 0, 2, 3), 0)])).collect();
    assert_eq!(at_once[0].lasts, GRANT_GRACE);
}

#[test]
fn a_guest_that_resolves_without_end_holds_so_many_and_no_more() {
    let mut filter = filter("allow=*.example.com");
    for number in 0..3 * u32::try_from(GRANTS_MAX).unwrap() {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(203, 0, 0, 0).to_bits() + number);
        let name = format!("n{number}.example.com");
        assert_eq!(filter.hold(resolved(&name, &[(address, 60 + number % 7)])).count(), 1);
    }
    assert_eq!(filter.held.len(), GRANTS_MAX);
    let address = *filter.held.keys().next().unwrap();
    for number in 0..100 {
        filter.hold(resolved(&format!("m{number}.example.com"), &[(address, 60)])).count();
    }
    assert_eq!(filter.held[&address].names.len(), NAMES_OF_ADDRESS_MAX);
}

#[test]
fn another_policy_opens_nothing_that_had_run_out() {
    let mut filter = filter("allow=*.example.com");
    let (short, long) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    filter.hold(resolved("short.example.com", &[(short, 5)])).count();
    filter.hold(resolved("long.example.com", &[(long, 3_600)])).count();
    let later = Instant::now() + Duration::from_secs(300);
    let list: Egress = "allow=short.example.com,long.example.com".parse().unwrap();
    let mut ways = filter.ways(&list, later);
    let granted: Vec<Ipv4Addr> = ways.granted.iter().map(|grant| grant.address).collect();
    assert_eq!(granted, [long]);
    assert!(ways.granted[0].lasts <= Duration::from_secs(3_360), "no longer than before");
    ways.begun.sort();
    assert_eq!(ways.begun, [short, long], "what is connected goes on");
    let other = filter.ways(&"allow=long.example.com".parse().unwrap(), later);
    assert_eq!(other.begun, [long]);
    let open = filter.ways(&Egress::Open, later);
    assert!(open.granted.is_empty() && open.begun.is_empty());
}

#[test]
fn nothing_is_held_for_a_machine_that_is_open_or_closed() {
    for egress in ["open", "none", "allow=192.0.2.0/24"] {
        let mut filter = filter(egress);
        let granted = filter.hold(resolved("example.com", &[(Ipv4Addr::new(192, 0, 2, 1), 60)]));
        assert_eq!((granted.count(), filter.held.len()), (0, 0), "{egress}");
    }
}
