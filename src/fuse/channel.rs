//! The control channel: questions about the mount, asked as extended attributes of its root ([`crate::report`]), or of any
//! other file of it, since that may be what is mounted elsewhere (mount(8), `--bind`). They are
//! answered on the event loop that has read them, from counters and constants: without the source, and without a lock that
//! another request holds. One event loop always reads ([`crate::dispatch`]), so they are answered whatever the others wait for.

use super::adapter::Adapter;
use super::facts::{Facts, kernel, options};
use super::passthrough::Passthrough;
use super::reply::Answer;
use crate::counters::{Answered, Kind, Requests, Waiting};
use crate::dispatch::Gauge;
use crate::fs::Fs;
use crate::logging;
use crate::report::{self, MAX_ANSWER, PREFIX, Question, Status, Trace};
use crate::view::Tree;
use fuser::{INodeNo, ReplyXattr, Request};
use rustix::io::{Errno, Result};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file with a request that waits for as long as this does not answer.
pub const NOT_ANSWERING: Duration = Duration::from_secs(10);

/// What a request takes in an answer at most, in bytes: eight numbers and their names.
const REQUEST_SIZE: usize = 300;

/// Whether a name is one of the questions', which belong to no source.
pub fn is_question(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX)
}

/// Says what the mount does. It stays usable while the adapter serves.
#[derive(Debug)]
pub struct Channel<T: Tree> {
    fs: Arc<Fs<T>>,
    gauge: Gauge,
    passthrough: Arc<Passthrough>,
    requests: &'static Requests,
    facts: Arc<Facts>,
}

impl<T: Tree> Adapter<T> {
    /// What the mount says of itself.
    pub fn channel(&self) -> Channel<T> {
        Channel {
            fs: self.fs.clone(),
            gauge: self.dispatch.gauge(),
            passthrough: self.passthrough.clone(),
            requests: self.requests,
            facts: self.facts.clone(),
        }
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
        reply.answer(answer.map(|answer| (answer.len(), answer)));
    }
}

impl<T: Tree> Channel<T> {
    fn answer(&self, uid: u32, name: &[u8], size: usize) -> Result<Vec<u8>> {
        if uid != 0 && uid != self.facts.owner {
            return Err(Errno::PERM);
        }
        let room = match size {
            0 => MAX_ANSWER,
            size => size.min(MAX_ANSWER),
        };
        let question = Question::parse(name).unwrap_or(Err(Errno::OPNOTSUPP))?;
        // An empty list would say that there are no more.
        if question != Question::Status && !has_room(0, room) {
            return Err(Errno::RANGE);
        }
        let json = match question {
            Question::Status => serde_json::to_vec(&self.status()),
            Question::Trace(from) => serde_json::to_vec(&self.trace(from, room)),
            Question::Waiting => serde_json::to_vec(&self.waiting(room)),
        };
        json.map_err(|_| Errno::IO)
    }

    /// What the mount does.
    pub fn status(&self) -> Status {
        let (facts, fs) = (&*self.facts, &*self.fs);
        let view = fs.tree().report();
        let (device, inode) = view.root;
        Status {
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
            view: "shared".into(),
            since: facts.since(),
            uptime_us: facts.uptime().as_micros() as u64,
            options: options(&facts.config),
            kernel: kernel(facts, &self.passthrough, view.by_handle),
            requests: counts(self.requests),
            waiting: self.waits(),
            usage: self.usage(view.usage),
        }
    }

    fn usage(&self, view: report::ViewUsage) -> report::Usage {
        let load = self.gauge.load();
        let mut usage = self.fs.usage(view);
        [usage.page_tables, usage.resident] = memory_of_process();
        usage.spare_threads = report::Share::new(load.busy_spares, load.max_spares);
        usage.view.faults_eio += logging::faulted_replies();
        usage
    }

    /// How many requests are not answered, and for how long.
    pub fn waits(&self) -> report::Waiting {
        let now = self.requests.now();
        let age = |one: &Waiting| now.saturating_sub(one.began);
        report::Waiting {
            requests: self.others().count() as u64,
            oldest_us: self.others().map(|one| age(&one)).max().unwrap_or(0) / 1000,
            files_not_answering: self.silent().len() as u64,
            queued: self.gauge.load().queued as u64,
        }
    }

    /// The inodes with a request that is not answered for [`NOT_ANSWERING`].
    pub fn silent(&self) -> HashSet<u64> {
        let (now, long) = (self.requests.now(), NOT_ANSWERING.as_nanos() as u64);
        let silent = |one: &Waiting| now.saturating_sub(one.began) >= long;
        self.others().filter(silent).map(|one| one.node).collect()
    }

    /// The requests that are not answered, without questions.
    fn others(&self) -> impl Iterator<Item = Waiting> + '_ {
        let waiting = self.requests.waiting();
        waiting.filter(|one| one.what.kind != Kind::Control)
    }

    /// Requests that were answered, those with numbers from `from` on, as many as an answer of `room` bytes holds.
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

    /// Requests that are not answered, the oldest first, as many as an answer of `room` bytes holds.
    pub fn waiting(&self, room: usize) -> Trace {
        let now = self.requests.now();
        let mut waiting: Vec<_> = self.others().collect();
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

    /// Microseconds since 1970 of a moment that lies so many nanoseconds after the start, as the clock is set now.
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

/// Whether a further request fits into an answer of `room` bytes.
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

/// Page tables and resident memory of this process, in bytes. Reading /proc/self/status waits for nobody.
fn memory_of_process() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ["VmPTE:", "VmRSS:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    })
}
