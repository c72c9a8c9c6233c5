use super::*;
use crate::mapping::windows::WindowSet;
use crate::mapping::windows::tests::{O, PAGE, W, new_set, space, sparse};
use std::os::fd::AsFd;
use std::process::Command;

/// A holder of leases of one byte, by index: the ticket in the queue, and the tick of the last use.
struct Leases {
    this: Weak<Leases>,
    space: Arc<AddressSpace>,
    held: Mutex<BTreeMap<u64, (Ticket, u64, Lease)>>,
}

impl Leases {
    fn reserve(&self, index: u64) -> io::Result<()> {
        let lease = self.space.reserve(1)?;
        let this: Weak<Leases> = Weak::clone(&self.this);
        let mut held = self.held.lock();
        let ticket = self.space.enqueue(this, index);
        held.insert(index, (ticket, ticket.last_used, lease));
        Ok(())
    }

    fn held(&self) -> Vec<u64> {
        self.held.lock().keys().copied().collect()
    }
}

impl Evict for Leases {
    fn evict(&self, index: u64, ticket: Ticket) -> bool {
        let mut held = self.held.lock();
        let (known, last_used, _) = held.get_mut(&index).unwrap();
        assert_eq!(*known, ticket);
        if *last_used > ticket.last_used {
            let this: Weak<Leases> = Weak::clone(&self.this);
            let tick = (*last_used).min(self.space.now());
            *known = self.space.requeue(ticket, tick, this, index);
            return false;
        }
        held.remove(&index).is_some()
    }
}

#[test]
fn the_queue_follows_the_last_use_over_all_holders() {
    let geometry = Geometry::new(W, O, 4 * W);
    let space = AddressSpace::with_limits(3, 100, geometry);
    let holder = Arc::new_cyclic(|this| Leases {
        this: Weak::clone(this),
        space: Arc::clone(&space),
        held: Mutex::default(),
    });
    let use_until = |index, tick| holder.held.lock().get_mut(&index).unwrap().1 = tick;
    (0..3).for_each(|index| holder.reserve(index).unwrap());
    use_until(0, space.now());
    holder.reserve(3).unwrap();
    assert_eq!(holder.held(), [0, 2, 3]);
    // In use, so nothing can be evicted.
    for index in [0, 2, 3] {
        use_until(index, u64::MAX);
    }
    let refused = holder.reserve(4).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOMEM));
    use_until(0, 0);
    holder.reserve(4).unwrap();
    assert_eq!((holder.held(), space.used()), (vec![2, 3, 4], 3));
    // A holder that is gone has nothing to evict.
    drop(holder);
    assert_eq!((space.used(), space.windows()), (0, 0));
    assert!(!space.evict_one());
}

#[test]
fn a_random_load_of_four_threads_stays_within_the_budget() {
    let seed: u64 =
        std::env::var("MMFS_SEED").map_or(0x9E37_79B9_7F4A_7C15, |seed| seed.parse().unwrap());
    println!("MMFS_SEED={seed}");
    for clearing in [false, true] {
        let space = space(8);
        let sets = [new_set(&space), new_set(&space)];
        std::thread::scope(|scope| {
            for thread in 1..=4u64 {
                let (space, sets) = (&space, &sets);
                scope.spawn(move || {
                    random_loans(space, sets, seed.wrapping_mul(thread) | 1, clearing)
                });
            }
        });
        assert_eq!(
            sets[0].mapped_bytes() + sets[1].mapped_bytes(),
            space.used()
        );
    }
}

/// Borrows at random places. While another thread clears sets, the room may be taken by windows about to be unmapped. Only then
/// is ENOMEM allowed: each of the four threads holds at most two of eight windows.
fn random_loans(space: &AddressSpace, sets: &[Arc<WindowSet>; 2], mut seed: u64, clearing: bool) {
    let file = sparse(1 << 40);
    for round in 0..5_000u64 {
        seed ^= seed << 13; // xorshift64
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // Every second range is in the first few windows.
        let span = if round % 2 == 0 { 1 << 40 } else { 6 * W };
        let (offset, len) = (seed % (span - O), 1 + (seed >> 40) % O);
        let set = &sets[(seed >> 33) as usize % 2];
        match set.borrow(file.as_fd(), offset, len as usize, 1 << 40) {
            Ok(loan) if round % 16 == 0 => {
                let mut first = [1];
                loan.read(&mut first).unwrap();
                assert_eq!(first, [0]);
            }
            Ok(_) => {}
            Err(e) => assert!(
                clearing && Errno::from_io_error(&e) == Some(Errno::NOMEM),
                "{e}"
            ),
        }
        assert!(space.used() <= space.budget());
        if clearing && round % 100 == 0 {
            set.clear();
        }
    }
}

#[test]
fn the_number_of_windows_is_bounded() {
    let file = sparse(1 << 40);
    let space = AddressSpace::with_limits(
        u64::MAX / 2,
        5,
        Geometry {
            window: W,
            overlap: O,
        },
    );
    let set = new_set(&space);
    for index in 0..50 {
        set.borrow(file.as_fd(), index * W, 1, 1 << 40).unwrap();
    }
    assert_eq!((set.window_count(), space.windows()), (5, 5));
}

#[test]
fn half_of_max_map_count_is_left_alone() {
    let limit: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let (file, space) = (sparse(1 << 40), AddressSpace::new(1 << 45, W, O));
    let set = new_set(&space);
    for index in 0..(limit as u64 / 2 + 500).min(40_000) {
        set.borrow(file.as_fd(), index * W, 1, 1 << 40).unwrap();
    }
    assert!(set.window_count() <= limit / 2);
}

#[test]
fn a_small_address_space_is_shared_by_eviction_and_then_enomem() {
    const NAME: &str = "a_small_address_space_is_shared_by_eviction_and_then_enomem";
    if std::env::var_os("MMFS_CHILD").is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([
            "--exact",
            &format!("mapping::budget::tests::{NAME}"),
            "--test-threads=1",
        ]);
        let output = child.env("MMFS_CHILD", "1").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let geometry = Geometry {
        window: 16 << 20,
        overlap: 1 << 20,
    };
    let (file, space) = (
        sparse(1 << 40),
        AddressSpace::with_limits(1 << 40, 1000, geometry),
    );
    let set = new_set(&space);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let used = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * PAGE;
    let limit = Some(used + (100 << 20));
    rustix::process::setrlimit(
        rustix::process::Resource::As,
        rustix::process::Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .unwrap();
    assert!(default_budget() <= 50 << 20);
    let loan = |index: u64| set.borrow(file.as_fd(), index << 24, 1, 1 << 40);
    for index in 0..100 {
        loan(index).unwrap();
    }
    assert!((1..=5).contains(&set.window_count()));
    let mut loans = Vec::new();
    let refused = (0..10)
        .find_map(|index| loan(index).map(|loan| loans.push(loan)).err())
        .unwrap();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOMEM));
    assert!(loans.len() >= 3);
    assert_eq!(space.windows(), loans.len() as u64);
    loans.clear();
    loan(50).unwrap();
}
