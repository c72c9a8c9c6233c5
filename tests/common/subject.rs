//! What is mounted: mmfs, or the peer that `MMFS_SUBJECT` names, so that the same tests tell how others fare. Of a
//! peer, whose program `MMFS_BIN` names, hangs and exits are counted and fail nothing.

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::AtomicU64;

/// Times the watchdog had to cut the connection.
pub static HANGS: AtomicU64 = AtomicU64::new(0);

/// Daemons that had ended before they were asked to.
pub static EXITS: AtomicU64 = AtomicU64::new(0);

/// The peer's name, none for mmfs itself.
pub fn peer() -> Option<String> {
    std::env::var("MMFS_SUBJECT")
        .ok()
        .filter(|name| name != "mmfs")
}

/// The arguments that show `source` at `point`, `options` being those for mmfs; of these peers get timeouts and `dev`.
pub fn arguments(options: &[OsString], source: &Path, point: &Path) -> Vec<OsString> {
    let timeout = options.iter().position(|o| o == "--attr-timeout");
    let timeout = timeout.map_or("1".into(), |at| options[at + 1].to_string_lossy());
    let dev = if options.iter().any(|o| o == "dev") {
        ",dev"
    } else {
        ""
    };
    let paths = [source.as_os_str(), point.as_os_str()].map(OsString::from);
    match peer().as_deref() {
        None => [&everywhere(options)[..], options, &paths].concat(),
        Some("bindfs") => {
            let how = format!("-oattr_timeout={timeout},entry_timeout={timeout}{dev}");
            [&["--multithreaded".into(), how.into()], &paths[..]].concat()
        }
        Some("passthrough_ll") => {
            let how = "-oallow_other,default_permissions,xattr,cache=auto,timeout=";
            let how = format!("{how}{timeout}{dev},source={}", source.display());
            vec![how.into(), point.into()]
        }
        Some(other) => panic!("MMFS_SUBJECT={other}? mmfs, bindfs or passthrough_ll"),
    }
}

/// Whether all mounts are made in a mode with this option, which a test does not apply to. It says so.
pub fn is_in_mode(option: &str, why: &str) -> bool {
    let with_spaces = |text: &str| format!(" {} ", text.trim());
    let is = with_spaces(&test_options()).contains(&with_spaces(option));
    if is {
        println!("not with {option}: {why}");
    }
    is
}

fn test_options() -> String {
    std::env::var("MMFS_TEST_OPTIONS").unwrap_or_default()
}

/// Options for every mount, from MMFS_TEST_OPTIONS: the same tests in another mode. `--direct-io` and `--passthrough`
/// exclude each other; the test's own word counts.
fn everywhere(own: &[OsString]) -> Vec<OsString> {
    let given = test_options();
    let words = given.split_whitespace().map(OsString::from);
    let is_own = |option: &str| own.iter().any(|word| word == option);
    let excluded = |word: &OsString| {
        (word == "--passthrough" && is_own("--direct-io"))
            || (word == "--direct-io" && is_own("--passthrough"))
    };
    words.filter(|word| !excluded(word)).collect()
}
