//! Prometheus' text format 0.0.4.

use super::asked::Asked;
use super::text::clean;
use crate::report::{Requests, Share, Status};
use std::fmt::Write;
use std::path::Path;

/// Metrics are written one after the other, each with its values of all mounts.
struct Page<'a> {
    text: String,
    mounts: Vec<(String, &'a Status)>,
}

/// Metrics of these mounts. Those that do not answer have only `mmfs_up`.
pub fn text(all: &[Asked]) -> String {
    let mut page = Page {
        text: String::new(),
        mounts: all
            .iter()
            .filter_map(|one| Some((label(&one.mount_point), one.answer.as_ref().ok()?)))
            .collect(),
    };
    page.head("mmfs_up", "gauge", "Whether the mount answers.");
    for one in all {
        let value = u8::from(one.answer.is_ok());
        page.line(
            "mmfs_up",
            &format!("mount=\"{}\"", label(&one.mount_point)),
            value,
        );
    }
    page.about();
    page.requests();
    page.waiting();
    page.usage();
    page.text
}

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
    }

    /// A metric with one value of each mount.
    fn each<V: std::fmt::Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&Status) -> V,
    ) {
        self.head(name, kind, help);
        for at in 0..self.mounts.len() {
            let (mount, status) = &self.mounts[at];
            let (labels, value) = (format!("mount=\"{mount}\""), value(status));
            self.line(name, &labels, value);
        }
    }

    fn about(&mut self) {
        self.head("mmfs_info", "gauge", "What is mounted.");
        for at in 0..self.mounts.len() {
            let (mount, status) = &self.mounts[at];
            let labels = format!(
                "mount=\"{mount}\",source=\"{}\",version=\"{}\",view=\"{}\"",
                escaped(&status.source.path.text),
                escaped(&status.version),
                escaped(&status.view)
            );
            self.line("mmfs_info", &labels, 1);
        }
        let help = "When it was mounted, in seconds since 1970.";
        self.each("mmfs_start_time_seconds", "gauge", help, |s| s.since);
    }

    fn by_kind(&mut self, mut write: impl FnMut(&mut Self, &str, &Requests)) {
        for at in 0..self.mounts.len() {
            let (mount, requests) = (
                self.mounts[at].0.clone(),
                self.mounts[at].1.requests.clone(),
            );
            for one in &requests {
                let labels = format!("mount=\"{mount}\",kind=\"{}\"", escaped(&one.kind));
                write(self, &labels, one);
            }
        }
    }

    fn requests(&mut self) {
        let name = "mmfs_requests_total";
        self.head(name, "counter", "Requests that came.");
        self.by_kind(|page, labels, one| page.line(name, labels, one.count));
        let name = "mmfs_request_errors_total";
        self.head(
            name,
            "counter",
            "Requests that were answered with an error.",
        );
        self.by_kind(|page, labels, one| page.line(name, labels, one.errors));
        let name = "mmfs_request_duration_seconds";
        self.head(name, "summary", "How long requests took.");
        self.by_kind(|page, labels, one| {
            for (quantile, micros) in [("0.5", one.p50_us), ("0.99", one.p99_us), ("1", one.max_us)]
            {
                let labels = format!("{labels},quantile=\"{quantile}\"");
                page.line(name, &labels, seconds(micros));
            }
            page.line(&format!("{name}_sum"), labels, seconds(one.total_us));
            page.line(&format!("{name}_count"), labels, one.count);
        });
    }

    fn waiting(&mut self) {
        let help = "Requests that are not answered yet.";
        self.each("mmfs_waiting_requests", "gauge", help, |s| {
            s.waiting.requests
        });
        let help = "For how long the oldest of them waits.";
        let oldest = |s: &Status| seconds(s.waiting.oldest_us);
        self.each("mmfs_waiting_oldest_seconds", "gauge", help, oldest);
        let help = "Inodes with a request that waits for ten seconds or longer.";
        let silent = |s: &Status| s.waiting.files_not_answering;
        self.each("mmfs_files_not_answering", "gauge", help, silent);
        let help = "Requests that wait for a thread.";
        self.each("mmfs_queued_requests", "gauge", help, |s| s.waiting.queued);
    }

    fn usage(&mut self) {
        let help = "Files that clients have open.";
        self.each("mmfs_open_files", "gauge", help, |s| s.usage.open_files);
        let help = "Directories that clients have open.";
        self.each("mmfs_open_directories", "gauge", help, |s| {
            s.usage.open_directories
        });
        let help = "Inodes that the kernel knows.";
        self.each("mmfs_known_nodes", "gauge", help, |s| s.usage.known_nodes);
        let help = "Page tables of the daemon.";
        self.each("mmfs_page_tables_bytes", "gauge", help, |s| {
            s.usage.page_tables
        });
        let help = "Resident memory of the daemon.";
        self.each("mmfs_resident_memory_bytes", "gauge", help, |s| {
            s.usage.resident
        });
        self.shares();
        self.mishaps();
    }

    /// What there is a limit of.
    fn shares(&mut self) {
        let of =
            |name: &str, unit: &str, what: &str, share: fn(&Status) -> Share, page: &mut Self| {
                let (used, most) = (
                    format!("mmfs_{name}{unit}"),
                    format!("mmfs_{name}_limit{unit}"),
                );
                page.each(&used, "gauge", &format!("{what} in use."), |s| {
                    share(s).used
                });
                page.each(&most, "gauge", &format!("{what} at most."), |s| {
                    share(s).limit
                });
            };
        of(
            "mapped",
            "_bytes",
            "Mapped bytes",
            |s| s.usage.view.mapped,
            self,
        );
        of(
            "windows",
            "",
            "Mapped ranges",
            |s| s.usage.view.windows,
            self,
        );
        of(
            "spare_threads",
            "",
            "Spare threads",
            |s| s.usage.spare_threads,
            self,
        );
        let files = |s: &Status| s.usage.view.file_descriptors;
        of(
            "file_descriptors",
            "",
            "Descriptors of open files",
            files,
            self,
        );
        let listings = |s: &Status| s.usage.view.listing_descriptors;
        of(
            "listing_descriptors",
            "",
            "Descriptors of open directories",
            listings,
            self,
        );
        let kept = |s: &Status| s.usage.view.kept_descriptors;
        of(
            "kept_descriptors",
            "",
            "Descriptors kept to save work",
            kept,
            self,
        );
    }

    fn mishaps(&mut self) {
        let help = "How often the kernel was told to forget or to replace something.";
        self.each("mmfs_invalidations_total", "counter", help, |s| {
            s.usage.invalidations
        });
        let help = "Copies from or to a mapping that faulted.";
        self.each("mmfs_faults_total", "counter", help, |s| {
            s.usage.view.faults
        });
        let help = "Faults that ended in EIO.";
        self.each("mmfs_fault_errors_total", "counter", help, |s| {
            s.usage.view.faults_eio
        });
        let help = "Writes found lost after they had been answered.";
        self.each("mmfs_lost_writes_total", "counter", help, |s| {
            s.usage.view.lost_writes
        });
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn label(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

/// The value of a label: a backslash, a quote and a newline are written with a backslash. Other control characters are
/// replaced, for who reads this at a terminal.
fn escaped(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(clean).collect();
    let text = lines.join("\n");
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::NoAnswer;

    #[test]
    fn hostile_names_stay_within_their_label() {
        let asked = Asked {
            mount_point: "/a\"b\\c\nmmfs_up{} 0".into(),
            answer: Err(NoAnswer::Dead),
        };
        let text = text(&[asked]);
        let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(values, [r#"mmfs_up{mount="/a\"b\\c\nmmfs_up{} 0"} 0"#]);
    }
}
