//! The status as text.

use super::asked::Asked;
use super::text::{bytes, long, micros, rate, reported, second};
use crate::report::{Feature, Options, Share, Status, Store};
use crate::terminal::{for_shell, one_line};
use std::fmt::Write;

/// The note for a source that was removed.
const REMOVED: &str = "that directory was removed: unmount, then mount its path again";

/// One line per mount.
pub fn lines(all: &[Asked]) -> String {
    let mut text = String::new();
    for Asked {
        mount_point,
        answer,
    } in all
    {
        // Writing to a String does not fail.
        let _ = match answer {
            Ok(status) => writeln!(
                text,
                "{}  shows {}{}, pid {}, for {}, {} requests, {} waiting",
                for_shell(mount_point),
                reported(&status.source.path),
                if status.source.removed {
                    " (removed)"
                } else {
                    ""
                },
                status.pid,
                long(status.uptime_us / 1_000_000),
                sum(status.requests.iter().map(|one| one.count)),
                status.waiting.requests
            ),
            Err(why) => writeln!(text, "{}  {why}", for_shell(mount_point)),
        };
    }
    text
}

/// A sum that does not overflow: the numbers are a mount's, which is not trusted.
fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// The status of one mount, in lines of at most `columns`.
pub fn text(status: &Status, columns: usize) -> String {
    let mut text = head(status, columns);
    text.push('\n');
    text.push_str(&table(status, None, usize::MAX));
    text
}

/// The column of the values.
const INDENT: usize = 12;

/// The status without the requests, in lines of at most `columns`.
pub fn head(status: &Status, columns: usize) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| write_line(&mut text, name, &value, columns);
    line("mount", reported(&status.mount_point));
    line("source", reported(&status.source.path));
    if status.source.removed {
        line("", REMOVED.into());
    }
    if let Some(store) = &status.store {
        shown_store(store, &mut line);
    }
    line(
        "daemon",
        format!(
            "mmfs {}, pid {}, user {}, {} view",
            one_line(&status.version),
            status.pid,
            status.uid,
            one_line(&status.view)
        ),
    );
    let up = long(status.uptime_us / 1_000_000);
    line("since", format!("{} ({up})", second(status.since)));
    line("options", options(&status.options));
    line("kernel", one_line(&status.kernel.release));
    for feature in &status.kernel.features {
        line("", shown_feature(feature));
    }
    if !status.kernel.missing.is_empty() {
        let missing = one_line(&status.kernel.missing.join(" "));
        line("", format!("this kernel lacks {missing}"));
    }
    usage(status, &mut line);
    text
}

/// Conflicts that are named in text.
const MAX_NAMED: usize = 10;

fn shown_store(store: &Store, line: &mut impl FnMut(&str, String)) {
    let limit = store
        .limit
        .map_or_else(String::new, |limit| format!(" of at most {}", bytes(limit)));
    let used = bytes(store.used);
    line(
        "store",
        format!("{}, {used}{limit} of files", reported(&store.path)),
    );
    if store.conflicts == 0 {
        return;
    }
    line(
        "conflicts",
        format!(
            "{} changed files that the source has changed, replaced or removed since:",
            store.conflicts
        ),
    );
    let named = store.conflicting.iter().take(MAX_NAMED);
    let more = store.conflicts.saturating_sub(named.len() as u64);
    named.for_each(|path| line("", reported(path)));
    if more > 0 {
        line("", format!("and {more} more"));
    }
}

/// Writes a name and its value. A value that is too long is wrapped at spaces, so a path without spaces stays whole.
fn write_line(text: &mut String, name: &str, value: &str, columns: usize) {
    let _ = write!(text, "{name:<INDENT$}");
    let mut at = INDENT;
    for (number, word) in value.split(' ').enumerate() {
        let width = word.chars().count();
        if number > 0 && at + 1 + width > columns {
            let _ = write!(text, "\n{:INDENT$}", "");
            at = INDENT;
        } else if number > 0 {
            text.push(' ');
            at += 1;
        }
        text.push_str(word);
        at += width;
    }
    text.push('\n');
}

fn usage(status: &Status, line: &mut impl FnMut(&str, String)) {
    let (usage, view) = (&status.usage, &status.usage.view);
    line(
        "open",
        format!(
            "{} files, {} directories; {} inodes known",
            usage.open_files, usage.open_directories, usage.known_nodes
        ),
    );
    line(
        "memory",
        format!(
            "{} of {} mapped in {} windows; page tables {}; resident {}",
            bytes(view.mapped.used),
            bytes(view.mapped.limit),
            share(view.windows),
            bytes(usage.page_tables),
            bytes(usage.resident)
        ),
    );
    line(
        "descriptors",
        format!(
            "files {}, directories {}, kept {}",
            share(view.file_descriptors),
            share(view.listing_descriptors),
            share(view.kept_descriptors)
        ),
    );
    let waiting = &status.waiting;
    line(
        "waiting",
        match waiting.requests {
            0 => "no requests".into(),
            n => format!(
                "{n} requests, the oldest for {}; {} queued; files that do not answer: {}",
                micros(waiting.oldest_us),
                waiting.queued,
                waiting.files_not_answering
            ),
        },
    );
    line(
        "threads",
        format!("spare threads in use: {}", share(usage.spare_threads)),
    );
    line(
        "mishaps",
        format!(
            "{} faults, {} of them EIO; {} lost writes; {} invalidations",
            view.faults, view.faults_eio, view.lost_writes, usage.invalidations
        ),
    );
}

fn share(share: Share) -> String {
    format!("{} of {}", share.used, share.limit)
}

fn shown_feature(feature: &Feature) -> String {
    let (name, note) = (one_line(&feature.name), one_line(&feature.note));
    let state = if feature.in_use { "yes" } else { "no" };
    match note.is_empty() {
        true => format!("{name}: {state}"),
        false => format!("{name}: {state} ({note})"),
    }
}

fn options(options: &Options) -> String {
    let mut words = vec![
        format!("access {}", one_line(&options.access)),
        format!("threads {}", options.threads),
        format!("window-size {}", bytes(options.window_size)),
        format!("write-path {}", one_line(&options.write_path)),
        format!("attr-timeout {}", options.attr_timeout),
        format!("entry-timeout {}", options.entry_timeout),
    ];
    let set = [
        (options.read_only, "read-only"),
        (options.sync_on_close, "sync-on-close"),
        (options.direct_io, "direct-io"),
        (options.passthrough, "passthrough"),
        (options.auto_unmount, "auto-unmount"),
    ];
    let set = set.iter().filter(|(is_set, _)| *is_set);
    words.extend(set.map(|(_, name)| (*name).to_owned()));
    let store = options.store.iter();
    words.extend(store.map(|store| format!("store {}", reported(store))));
    words.extend(options.ephemeral.then(|| "ephemeral".into()));
    let limit = options.store_limit;
    words.extend(limit.map(|limit| format!("store-limit {}", bytes(limit))));
    let change = options.on_source_change.iter();
    words.extend(change.map(|how| format!("on-source-change {}", one_line(how))));
    words.extend(options.flags.iter().map(|flag| one_line(flag)));
    words.extend(
        options
            .log
            .iter()
            .map(|log| format!("log {}", reported(log))),
    );
    words.join(", ")
}

/// A table of the requests by kind, the highest rate first. Rates are those since `before`. Without `before`, they are averages
/// since the mount.
pub fn table(status: &Status, before: Option<&Status>, max_lines: usize) -> String {
    let mut text = format!(
        "{:<16}{:>12}{:>9}{:>9}{:>10}{:>10}{:>10}\n",
        "requests", "count", "errors", "per s", "p50", "p99", "max"
    );
    let since = before.map_or(0, |before| before.uptime_us);
    let seconds = status.uptime_us.saturating_sub(since).max(1) as f64 / 1e6;
    let mut rows: Vec<_> = status
        .requests
        .iter()
        .map(|one| {
            let earlier = before.into_iter().flat_map(|before| &before.requests);
            let earlier = earlier.filter(|other| other.kind == one.kind);
            let earlier = sum(earlier.map(|other| other.count));
            (one.count.saturating_sub(earlier) as f64 / seconds, one)
        })
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.count.cmp(&a.1.count)));
    for (per_second, one) in rows.into_iter().take(max_lines) {
        let _ = writeln!(
            text,
            "{:<16}{:>12}{:>9}{:>9}{:>10}{:>10}{:>10}",
            one_line(&one.kind),
            one.count,
            one.errors,
            rate(per_second),
            micros(one.p50_us),
            micros(one.p99_us),
            micros(one.max_us)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Requests;

    #[test]
    fn any_numbers_are_shown() {
        let one = Requests {
            kind: "read".into(),
            count: u64::MAX,
            ..Requests::default()
        };
        let mut status = Status {
            uptime_us: u64::MAX,
            requests: vec![one.clone(), one],
            ..Status::default()
        };
        status.source.removed = true;
        status.store = Some(Store {
            conflicts: u64::MAX,
            used: u64::MAX,
            limit: Some(u64::MAX),
            conflicting: vec![crate::report::Path::new("a\x1b[2J".as_ref()); 200],
            ..Store::default()
        });
        let shown = [
            text(&status, 80),
            table(&status, Some(&status), 80),
            lines(&[Asked {
                mount_point: "/mnt".into(),
                answer: Ok(status),
            }]),
        ];
        assert!(shown[0].contains("was removed") && shown[2].contains("(removed)"));
        assert!(
            shown[2].contains(&format!("{} requests", u64::MAX)),
            "{}",
            shown[2]
        );
    }
}
