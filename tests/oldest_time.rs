//! No request of a client may end one of the daemon's event loops.

mod common;
mod stage;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::tools::wait_until;
use stage::on_mount;

/// fuser 0.18 negates the seconds of such a time while it decodes a SETATTR. With overflow checks that would end the
/// event loop that read it: its caller would wait for
/// ever, and after one such call for each loop the mount is dead.
#[test]
fn the_oldest_time_of_all_ends_nothing() {
    on_mount(&["--threads", "2"], |stage| {
        fs::write(stage.source("file"), "x").unwrap();
        for call in 0..3 {
            let mut set = Command::new(stage.program("oldest_time"));
            let mut caller = set
                .arg(stage.mount("file"))
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let answered = wait_until(Duration::from_secs(3), || {
                caller.try_wait().unwrap().is_some()
            });
            // Harmless when it has ended.
            let _ = caller.kill();
            assert!(answered, "call {call} is not answered:\n{}", stage.log());
        }
        assert!(!stage.log().contains("panicked"), "{}", stage.log());
        assert_eq!(fs::read(stage.mount("file")).unwrap(), b"x");
    });
}
