//! What mmfs does without a request.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use mmfs::chores::{Chore, PendingTimes};
use mmfs::inode::Seen;
use rustix::fs::OFlags;

use crate::inodes::Ino;
use crate::served::{Served, Told, serve};

/// More than the second after which open files are looked at again.
const WHILE: Duration = Duration::from_millis(1200);

/// How often open files were looked at since calls were last asked for.
fn checks(served: &Served) -> usize {
    served.memory.take_calls_of("check_open_files").len()
}

/// Waits until open files are looked at.
#[track_caller]
fn wait_for_check(served: &Served) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while checks(served) == 0 {
        assert!(Instant::now() < deadline, "nobody looks at open files");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn open_files_are_watched_for_as_long_as_there_are_any() {
    let served = serve();
    served.begin();
    let node = served.file("a", b"");
    let fh = served.handle(node, OFlags::RDONLY);
    wait_for_check(&served);
    wait_for_check(&served);
    served.release(fh).unwrap();
    std::thread::sleep(2 * WHILE);
    // The one that finds nothing open.
    assert!(checks(&served) <= 1, "still watched, and nothing is open");
    served.handle(node, OFlags::RDONLY);
    wait_for_check(&served);
}

#[test]
fn nothing_is_watched_while_nothing_is_open() {
    let served = serve();
    served.begin();
    served.opendir(served.directory("a")).unwrap();
    std::thread::sleep(WHILE);
    assert_eq!(checks(&served), 0);
}

#[test]
fn a_change_behind_a_file_opened_before_the_session_began_is_found_and_told() {
    let served = serve();
    let node = served.file("a", b"bytes");
    served.handle(node, OFlags::RDONLY);
    served.change_behind(node);
    let told = served.begin();
    let next = told.recv_timeout(Duration::from_secs(10));
    assert_eq!(next, Ok(Told::DropPages(node)));
}

#[test]
fn housekeeping_ends_with_the_operations() {
    let served = serve();
    served.begin();
    served.handle(served.file("a", b""), OFlags::RDONLY);
    let memory = served.memory.clone();
    drop(served);
    memory.take_calls();
    std::thread::sleep(WHILE);
    assert!(memory.take_calls().is_empty());
}

/// A file whose times wait.
#[derive(Debug)]
struct Waiting(Sender<()>);

impl PendingTimes for Waiting {
    fn apply_times(&self) -> bool {
        self.0.send(()).is_ok()
    }
}

#[test]
fn times_that_wait_are_applied_soon() {
    let served = serve();
    served.begin();
    let (applied, heard) = channel();
    let file: Arc<dyn PendingTimes> = Arc::new(Waiting(applied));
    let wait = || served.chores.add(Chore::ApplyTimes(Arc::downgrade(&file)));
    for _ in 0..2 {
        wait();
        assert_eq!(heard.recv_timeout(Duration::from_secs(10)), Ok(()));
    }
}

/// A trim counts forgotten nodes from the beginning again: the next is due after as many more.
#[test]
fn memory_is_given_back_once_many_nodes_were_forgotten() {
    const MANY: u64 = 16 << 10;
    let served = serve();
    let nodes = served.memory.nodes();
    let meet = |number| {
        let met = nodes.remember(Ino { number, life: 0 }, Seen::Held, 0);
        met.expect("a node")
    };
    let forget = |number| nodes.forget(meet(number), 1).expect("it was met").trim;
    for number in 10..10 + MANY + 50 {
        served.forget(meet(number), 1);
    }
    served.begin();
    let trimmed = (0..20).any(|_| {
        std::thread::sleep(Duration::from_millis(300));
        let due: Vec<u64> = (1..=MANY).filter(|nth| forget(9 + nth)).collect();
        due == [MANY]
    });
    assert!(trimmed, "50 nodes forgotten before still count");
}
