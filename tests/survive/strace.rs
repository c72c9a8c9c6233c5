//! System calls of the daemon made to fail, by strace(1) attached to it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::tools::{text_of, tool, wait_until};

/// Attached until dropped.
pub struct Strace {
    child: Child,
    log: std::path::PathBuf,
}

impl Strace {
    /// Attaches to all threads of the process, tracing `calls`, with these injections.
    #[track_caller]
    pub fn attach(pid: u32, calls: &str, injections: &[String], log: &Path) -> Self {
        let _ = std::fs::remove_file(log);
        let messages = log.with_extension("messages");
        let errors = std::fs::File::create(&messages).expect("a file for strace's messages");
        let mut command = Command::new(tool("strace"));
        command.args(["-f", "-e", "signal=none", "-e", &format!("trace={calls}")]);
        for injection in injections {
            command.args(["-e", &format!("inject={injection}")]);
        }
        command.arg("-o").arg(log).args(["-p", &pid.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        let child = command.spawn().expect("strace starts");
        let this = Strace {
            child,
            log: log.to_owned(),
        };
        // Threads come and go.
        let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(1, Iterator::count);
        let attached = || {
            let text = text_of(&messages);
            text.matches("attached").count() >= 1 && traced(pid) >= tasks()
        };
        assert!(
            wait_until(Duration::from_secs(5), attached),
            "strace: {}",
            text_of(&messages)
        );
        this
    }

    /// Detaches; the calls traced, one a line, those injected marked `(INJECTED)`.
    pub fn detach(mut self) -> String {
        self.end();
        text_of(&self.log)
    }

    fn end(&mut self) {
        crate::common::fuse::kill(self.child.id(), rustix::process::Signal::INT);
        let _ = self.child.wait();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.end();
    }
}

// Threads that have a tracer.
fn traced(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter(|task| {
            let status = text_of(&task.path().join("status"));
            status
                .lines()
                .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        })
        .count()
}
