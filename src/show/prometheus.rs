//! The status in Prometheus' text format 0.0.4.

use super::asked::Asked;
use crate::counters::Kind;
use crate::report::{Requests, Share, Status, Store};
use crate::terminal::is_command;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The text. Metrics follow one after the other, each with the values of all mounts.
struct Page<'a> {
    text: String,
    mounts: Vec<(String, &'a Status)>,
}

/// The metrics of these mounts. A mount that does not answer has only `mmfs_up`.
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

    /// A metric with one value per mount.
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
        self.head(
            "mmfs_info",
            "gauge",
            "Source, version and view of the mount.",
        );
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
        let help = "Time of the mount, in seconds since 1970.";
        self.each("mmfs_start_time_seconds", "gauge", help, |s| s.since);
        let help = "Whether the source is known to have been removed.";
        self.each("mmfs_source_removed", "gauge", help, |s| {
            u8::from(s.source.removed)
        });
    }

    fn by_kind(&mut self, mut write: impl FnMut(&mut Self, &str, &Requests)) {
        for at in 0..self.mounts.len() {
            let (mount, requests) = (
                self.mounts[at].0.clone(),
                self.mounts[at].1.requests.clone(),
            );
            // The answer is not trusted: it may have unknown kinds, or a kind twice.
            for kind in Kind::ALL.iter().map(|kind| kind.name()) {
                if let Some(one) = requests.iter().find(|one| one.kind == kind) {
                    write(self, &format!("mount=\"{mount}\",kind=\"{kind}\""), one);
                }
            }
        }
    }

    fn requests(&mut self) {
        let name = "mmfs_requests_total";
        self.head(name, "counter", "Requests that have arrived.");
        self.by_kind(|page, labels, one| page.line(name, labels, one.count));
        let name = "mmfs_request_errors_total";
        self.head(
            name,
            "counter",
            "Requests that were answered with an error.",
        );
        self.by_kind(|page, labels, one| page.line(name, labels, one.errors));
        let name = "mmfs_request_duration_seconds";
        self.head(name, "summary", "Durations of answered requests.");
        self.by_kind(|page, labels, one| {
            for (quantile, micros) in [("0.5", one.p50_us), ("0.99", one.p99_us), ("1", one.max_us)]
            {
                let labels = format!("{labels},quantile=\"{quantile}\"");
                page.line(name, &labels, seconds(micros));
            }
            page.line(&format!("{name}_sum"), labels, seconds(one.total_us));
            page.line(&format!("{name}_count"), labels, one.answered);
        });
    }

    fn waiting(&mut self) {
        let help = "Requests that are not answered yet.";
        self.each("mmfs_waiting_requests", "gauge", help, |s| {
            s.waiting.requests
        });
        let help = "How long the oldest of them has waited.";
        let oldest = |s: &Status| seconds(s.waiting.oldest_us);
        self.each("mmfs_waiting_oldest_seconds", "gauge", help, oldest);
        let help = "Inodes with a request that has waited for ten seconds or longer.";
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
        let help = "Inodes to which the kernel holds references.";
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
        self.stores();
        self.events();
    }

    /// Resources with a limit.
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
            "Descriptors kept open for later opens",
            kept,
            self,
        );
    }

    /// Of private views only.
    fn stores(&mut self) {
        let help = "Bytes of files in the store.";
        self.each_store("mmfs_store_used_bytes", help, |store| Some(store.used));
        let help = "Bytes of files in the store at most.";
        self.each_store("mmfs_store_limit_bytes", help, |store| store.limit);
        let help =
            "Changed files found whose file in the source was changed, replaced or removed since.";
        self.each_store("mmfs_conflicts", help, |store| Some(store.conflicts));
    }

    /// A metric with one value per private view. `value` may be None.
    fn each_store(&mut self, name: &str, help: &str, value: impl Fn(&Store) -> Option<u64>) {
        let of = |(mount, status): &(String, &Status)| {
            let value = value(status.store.as_ref()?)?;
            Some((format!("mount=\"{mount}\""), value))
        };
        let values: Vec<_> = self.mounts.iter().filter_map(of).collect();
        if !values.is_empty() {
            self.head(name, "gauge", help);
        }
        for (labels, value) in values {
            self.line(name, &labels, value);
        }
    }

    fn events(&mut self) {
        let help = "Notifications to the kernel to drop or replace cached contents.";
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
        let help = "How often bytes of an answered write were found lost.";
        self.each("mmfs_lost_writes_total", "counter", help, |s| {
            s.usage.view.lost_writes
        });
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn label(path: &Path) -> String {
    let mut shown = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        shown.push_str(&escaped(chunk.valid()));
        chunk
            .invalid()
            .iter()
            .for_each(|&byte| escape(byte, &mut shown));
    }
    shown
}

/// The value of a label. Different texts have different values. A quote and a newline are escaped with a backslash. For each byte of
/// a backslash and of a character that a terminal would interpret, the value has `\xNN`.
fn escaped(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars() {
        match char {
            '"' => shown.push_str("\\\""),
            '\n' => shown.push_str("\\n"),
            char if char == '\\' || is_command(char) => {
                let bytes = char.encode_utf8(&mut [0; 4]).bytes().collect::<Vec<_>>();
                bytes.into_iter().for_each(|byte| escape(byte, &mut shown));
            }
            char => shown.push(char),
        }
    }
    shown
}

fn escape(byte: u8, shown: &mut String) {
    // A backslash in the value is written as two.
    let _ = write!(shown, "\\\\x{byte:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::NoAnswer;
    use std::collections::HashSet;
    use std::ffi::OsStr;

    fn values(all: &[Asked]) -> Vec<String> {
        let text = text(all);
        let values = text.lines().filter(|line| !line.starts_with('#'));
        values.map(str::to_owned).collect()
    }

    #[test]
    fn hostile_names_stay_within_their_label() {
        let asked = Asked {
            mount_point: "/a\"b\\c\nmmfs_up{} 0".into(),
            answer: Err(NoAnswer::Dead),
        };
        let shown = r#"mmfs_up{mount="/a\"b\\x5cc\nmmfs_up{} 0"} 0"#;
        assert_eq!(values(&[asked]), [shown]);
    }

    #[test]
    fn each_mount_point_has_a_label_of_its_own() {
        let names = [
            &b"/d\x01"[..],
            b"/d\x02",
            b"/d\xff",
            b"/d\xfe",
            "/d\u{fffd}".as_bytes(),
            b"/d\\x01",
            b"/d\\",
            b"/d\\n",
            b"/d\n",
            "/d\u{202e}".as_bytes(),
            "/d\u{9b}".as_bytes(),
            b"/d\x9b",
        ];
        let asked = names.map(|name| Asked {
            mount_point: OsStr::from_bytes(name).into(),
            answer: Err(NoAnswer::Dead),
        });
        let shown = values(&asked);
        assert!(!shown.iter().flat_map(|line| line.chars()).any(is_command));
        let different: HashSet<_> = shown.iter().collect();
        assert_eq!(different.len(), names.len(), "{shown:#?}");
    }

    #[test]
    fn no_answer_makes_a_series_twice() {
        let kinds = ["read", "read", "evil\u{1}", "evil\u{2}", "", "write"];
        let requests = kinds.map(|kind| Requests {
            kind: kind.into(),
            ..Requests::default()
        });
        let status = Status {
            requests: requests.to_vec(),
            ..Status::default()
        };
        let asked = Asked {
            mount_point: "/mnt".into(),
            answer: Ok(status),
        };
        let shown = values(&[asked]);
        let series: Vec<_> = shown
            .iter()
            .flat_map(|line| line.rsplit_once(' '))
            .collect();
        let different: HashSet<_> = series.iter().map(|(series, _)| series).collect();
        assert_eq!(different.len(), series.len(), "{shown:#?}");
        let counted = |kind: &str| {
            let label = format!("mmfs_requests_total{{mount=\"/mnt\",kind=\"{kind}\"}}");
            series.iter().filter(|(series, _)| *series == label).count()
        };
        assert_eq!((counted("read"), counted("write")), (1, 1));
        assert!(!shown.iter().any(|line| line.contains("evil")));
    }
}
