//! What the daemon says of itself when SIGUSR1 asks: lines of the log that no verbosity but `-qq` hides.
//!
//! Nothing here takes a lock or asks the source: it is asked for when something hangs.

use std::fs;
use std::time::Instant;

use crate::config::Config;
use crate::logging::REPORT;
use crate::version::VERSION;

/// Writes the report on the mount that `config` describes, which begins now.
pub fn writer(config: &Config) -> impl Fn() + Send + Sync + use<> {
    let began = Instant::now();
    let config = config.clone();
    move || {
        for line in lines(&config, began) {
            log::info!(target: REPORT, "{line}");
        }
    }
}

fn lines(config: &Config, began: Instant) -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(|| "unknown".into(), |value| value.trim().to_owned())
    };
    let count = |directory: &str| fs::read_dir(directory).map_or(0, Iterator::count);
    vec![
        format!(
            "status: mmfs {VERSION}, process {}, mounted {} s ago",
            std::process::id(),
            began.elapsed().as_secs()
        ),
        format!(
            "status: {:?} is shown at {:?}",
            config.source, config.mount_point
        ),
        format!(
            "status: {} event loops, {} threads, {} descriptors",
            config.threads,
            field("Threads:"),
            count("/proc/self/fd").saturating_sub(1) // the listing's own
        ),
        format!(
            "status: memory: {} resident, {} mapped, {} of page tables",
            field("VmRSS:"),
            field("VmSize:"),
            field("VmPTE:")
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_by_names_that_it_has() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        for name in ["Threads:", "VmRSS:", "VmSize:", "VmPTE:"] {
            assert!(status.lines().any(|line| line.starts_with(name)), "{name}");
        }
    }
}
