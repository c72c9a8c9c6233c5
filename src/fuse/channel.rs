//! The control channel answers questions about the mount. A question is an extended attribute ([`crate::report`]) of the
//! mount's root, or of any other file of it, because that file may be the root of a bind mount.
//!
//! The event loop that reads a question also answers it, from counters and constants. The answer needs neither the source nor a
//! lock that another request holds. One event loop always reads requests ([`crate::dispatch`]), so questions are answered even if
//! all other event loops wait.

use super::adapter::Adapter;
use super::discards::Discards;
use super::facts::{Facts, kernel, kind_of_view, options};
use super::passthrough::Passthrough;
use super::reply::Answer;
use crate::counters::{Answered, Kind, Requests, Waiting};
use crate::dispatch::Gauge;
use crate::fs::Fs;
use crate::logging;
use crate::report::{self, MAX_ANSWER, PREFIX, Question, Status, Trace};
use crate::view::Tree;
use fuser::{INodeNo, ReplyEmpty, ReplyXattr, Request};
use rustix::io::{Errno, Result};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file counts as not answering if one of its requests has waited for this long.
pub const NOT_ANSWERING: Duration = Duration::from_secs(10);

/// Upper limit for the JSON of one request in an answer, in bytes: eight numbers and their names.
const REQUEST_SIZE: usize = 300;

/// By how much an answer may grow after its length was asked for, in bytes.
const SLACK: usize = 4096;

/// Whether an attribute's name belongs to the control channel. Such names are never looked up in the source.
pub fn is_question(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX)
}

/// Answers questions about the mount. It can be used while the adapter serves.
#[derive(Debug)]
pub struct Channel<T: Tree> {
    fs: Arc<Fs<T>>,
    discards: Arc<Discards<T>>,
    gauge: Gauge,
    passthrough: Arc<Passthrough>,
    requests: &'static Requests,
    facts: Arc<Facts>,
}

impl<T: Tree> Adapter<T> {
    /// A channel to this mount.
    pub fn channel(&self) -> Channel<T> {
        Channel {
            fs: self.fs.clone(),
            discards: self.discards.clone(),
            gauge: self.dispatch.gauge(),
            passthrough: self.passthrough.clone(),
            requests: self.requests,
            facts: self.facts.clone(),
        }
    }

    /// Takes what is chosen to be given up. All other attributes are refused.
    pub(super) fn chosen(
        &self,
        req: &Request,
        node: INodeNo,
        (name, value): (&OsStr, &[u8]),
        reply: ReplyEmpty,
    ) {
        let reply = self.count(Kind::Control, node, reply);
        let may_ask = self.channel().must_be_admitted(req.uid());
        reply.answer(
            may_ask.and_then(|()| match Question::parse(name.as_bytes()) {
                Some(Ok(Question::Discard(number))) => self.discards.choose(number, value),
                _ => Err(Errno::PERM),
            }),
        );
    }

    /// Answers a question.
    pub(super) fn question(
        &self,
        req: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let reply = self.count(Kind::Control, node, (reply, size));
        let answer = (self.channel()).answer(req.uid(), name.as_bytes(), size as usize);
        // Who asks for the length asks for the answer next, and that may be longer by then.
        let room = |len: usize| match size {
            0 => (len + SLACK).min(MAX_ANSWER),
            _ => len,
        };
        reply.answer(answer.map(|answer| (room(answer.len()), answer)));
    }
}

impl<T: Tree> Channel<T> {
    fn must_be_admitted(&self, uid: u32) -> Result<()> {
        match uid == 0 || uid == self.facts.owner {
            true => Ok(()),
            false => Err(Errno::PERM),
        }
    }

    fn answer(&self, uid: u32, name: &[u8], size: usize) -> Result<Vec<u8>> {
        self.must_be_admitted(uid)?;
        let room = match size {
            0 => MAX_ANSWER,
            size => size.min(MAX_ANSWER),
        };
        let question = Question::parse(name).unwrap_or(Err(Errno::OPNOTSUPP))?;
        // An empty list would mean that there are no more requests.
        if question != Question::Status && !has_room(0, room) {
            return Err(Errno::RANGE);
        }
        let json = match question {
            Question::Status => serde_json::to_vec(&self.status()),
            Question::Trace(from) => serde_json::to_vec(&self.trace(from, room)),
            Question::Discard(number) => serde_json::to_vec(&self.discards.answer(number)?),
            Question::Waiting => serde_json::to_vec(&self.waiting(room)),
        };
        json.map_err(|_| Errno::IO)
    }

    /// The mount's status.
    pub fn status(&self) -> Status {
        let (facts, fs) = (&*self.facts, &*self.fs);
        let view = fs.tree().report();
        let (device, inode) = view.root;
        let mut status = Status {
            protocol: report::VERSION,
            version: facts.version.into(),
            pid: std::process::id(),
            uid: facts.owner,
            source: report::Source {
                path: report::Path::new(&facts.config.source),
                device,
                inode,
                removed: view.removed,
            },
            mount_point: report::Path::new(&facts.config.mount_point),
            view: kind_of_view(&facts.config).into(),
            store: view.store.as_ref().map(report::Store::new),
            since: facts.since(),
            uptime_us: facts.uptime().as_micros() as u64,
            options: options(&facts.config),
            kernel: kernel(facts, &self.passthrough, view.by_handle),
            requests: counts(self.requests),
            waiting: self.waiting_summary(),
            usage: self.usage(view.usage),
        };
        if let Some(store) = view.store.filter(|store| store.conflicts > 0) {
            status.add_conflicts(&store.conflicting);
        }
        status
    }

    fn usage(&self, view: report::ViewUsage) -> report::Usage {
        let load = self.gauge.load();
        let mut usage = self.fs.usage(view);
        [usage.page_tables, usage.resident] = memory_of_process();
        usage.spare_threads = report::Share::new(load.busy_spares, load.max_spares);
        usage.view.faults_eio += logging::faulted_replies();
        usage
    }

    /// How many requests are not answered yet, and how long the oldest has waited.
    pub fn waiting_summary(&self) -> report::Waiting {
        let now = self.requests.now();
        let ages = self.unanswered().map(|one| now.saturating_sub(one.began));
        report::Waiting {
            requests: self.unanswered().count() as u64,
            oldest_us: ages.max().unwrap_or(0) / 1000,
            files_not_answering: self.not_answering().len() as u64,
            queued: self.gauge.load().queued as u64,
        }
    }

    /// The inodes with a request that has waited for [`NOT_ANSWERING`] or longer.
    pub fn not_answering(&self) -> HashSet<u64> {
        let (now, long) = (self.requests.now(), NOT_ANSWERING.as_nanos() as u64);
        let waits_long = |one: &Waiting| now.saturating_sub(one.began) >= long;
        let found = self.unanswered().filter(waits_long);
        found.map(|one| one.node).collect()
    }

    /// The requests that are not answered yet, except questions.
    fn unanswered(&self) -> impl Iterator<Item = Waiting> + '_ {
        let waiting = self.requests.waiting();
        waiting.filter(|one| one.what.kind != Kind::Control)
    }

    /// Answered requests from number `from` on, as many as fit into `room` bytes.
    pub fn trace(&self, from: u64, room: usize) -> Trace {
        let mut requests = Vec::new();
        let next = self.requests.recent(from, |number, one| {
            let fits = has_room(requests.len(), room);
            if fits {
                requests.push(self.answered(number, &one));
            }
            fits
        });
        Trace {
            protocol: report::VERSION,
            next,
            requests,
        }
    }

    /// Requests that are not answered yet, the oldest first, as many as fit into `room` bytes.
    pub fn waiting(&self, room: usize) -> Trace {
        let now = self.requests.now();
        let mut waiting: Vec<_> = self.unanswered().collect();
        waiting.sort_by_key(|one| one.began);
        let mut requests = Vec::new();
        for one in waiting {
            if !has_room(requests.len(), room) {
                break;
            }
            let took = now.saturating_sub(one.began);
            let Waiting { what, node, began } = one;
            let errno = 0;
            let one = Answered {
                what,
                node,
                began,
                took,
                errno,
            };
            requests.push(self.answered(0, &one));
        }
        Trace {
            protocol: report::VERSION,
            next: 0,
            requests,
        }
    }

    /// Converts nanoseconds since the start of the mount into microseconds since 1970, by the current setting of the clock.
    fn time(&self, began: u64) -> u64 {
        let age = Duration::from_nanos(self.requests.now().saturating_sub(began));
        let at = SystemTime::now().checked_sub(age);
        let at = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        at.unwrap_or_default().as_micros() as u64
    }

    fn answered(&self, number: u64, one: &Answered) -> report::Request {
        report::Request {
            number,
            time_us: self.time(one.began),
            kind: one.what.kind.name().into(),
            node: one.node,
            offset: one.what.offset,
            length: one.what.length,
            took_us: one.took / 1000,
            errno: one.errno,
        }
    }
}

/// Whether an answer of `room` bytes has room for another one after `requests` requests.
fn has_room(requests: usize, room: usize) -> bool {
    (requests + 2) * REQUEST_SIZE <= room
}

fn counts(requests: &Requests) -> Vec<report::Requests> {
    let of = |kind: &Kind| {
        let found = requests.summary(*kind);
        (found.count > 0).then(|| report::Requests {
            kind: kind.name().into(),
            count: found.count,
            answered: found.answered,
            errors: found.errors,
            total_us: found.total_us,
            p50_us: found.p50_us,
            p99_us: found.p99_us,
            max_us: found.max_us,
        })
    };
    Kind::ALL.iter().filter_map(of).collect()
}

/// Page tables and resident memory of this process, in bytes. Reading /proc/self/status never blocks.
fn memory_of_process() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ["VmPTE:", "VmRSS:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    })
}
