//! Cuts the power, or kills the daemon, at points of a run, and compares what is left with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use mmfs::store::check::Report;
use mmfs::store::{NodeId, PAGE, Store};

use super::fake::FakeDisk;
use super::file_model::{FileModel, Side};
use super::image::{Cutter, Entry, Image, Random};
use super::judge::{Bounds, Choice, read_page};
use super::meta::Meta;
use super::promise::Promise;
use super::recorded::Model;
use super::script::Run;
use super::setup::options;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Of 100 points.
    pub cuts: u64,
    /// Random images at each point, beside the three that are always built.
    pub orders: u64,
    /// Of 1,000 images: the store goes on, and the power is cut again.
    pub second: u64,
}

pub fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// A run, and the list of its calls, which may have been changed.
pub struct Cuts<'a> {
    pub run: &'a Run,
    pub entries: &'a [Entry],
    /// Files of which a sync failed.
    pub lost: BTreeSet<NodeId>,
    pub grain: u64,
    /// A failed sync loses what was written before.
    pub loses: bool,
}

impl<'a> Cuts<'a> {
    pub fn of(run: &'a Run, entries: &'a [Entry]) -> Self {
        Self {
            run,
            entries,
            lost: BTreeSet::new(),
            grain: super::image::SECTOR,
            loses: true,
        }
    }

    /// How many operations are answered when so many calls were made.
    fn answered(&self, calls: usize) -> usize {
        let all = self.run.model.ops.len();
        self.entries.get(calls).map_or(all, |entry| entry.op)
    }

    fn bounds<'b>(&'b self, answered: usize, promise: &'b Promise) -> Bounds<'b> {
        let ends = &self.run.model.ends;
        let max = ends
            .get(answered)
            .map_or(self.run.model.pos, |(_, pos)| *pos);
        Bounds {
            lost: self.lost.clone(),
            grain: self.grain,
            ..Bounds::new(&self.run.model, promise, max)
        }
    }

    fn told(&self, calls: usize, error: &str) -> String {
        let near = self.entries[calls.saturating_sub(12)..calls].iter();
        let near: String = near
            .map(|entry| {
                format!("{} {:?}", entry.op, entry.call)
                    .chars()
                    .take(150)
                    .collect::<String>()
                    + "\n"
            })
            .collect();
        let answered = self.answered(calls);
        let op = self.run.model.ops.get(answered);
        format!(
            "after {calls} calls, before the answer of {answered} {op:?}: {error}\nlast calls:\n{near}"
        )
    }

    /// Cuts the power. Returns how many images were opened.
    ///
    /// # Errors
    /// A text about the first image that is not as it should be.
    pub fn cut_power(&self, effort: Effort, random: &mut Random) -> Result<u64, String> {
        let mut cutter = Cutter::new(&self.run.start, self.loses);
        let mut images = 0;
        for calls in 0..=self.entries.len() {
            if calls > 0 {
                cutter.advance(&self.entries[calls - 1].call);
            }
            if !random.chance(effort.cuts) && calls < self.entries.len() {
                continue;
            }
            let answered = self.answered(calls);
            let none = Arc::new(Promise::default());
            let promise = answered
                .checked_sub(1)
                .map_or(&none, |op| &self.run.model.ends[op].0);
            let bounds = self.bounds(answered, promise);
            for order in 0..3 + effort.orders {
                let image = match order {
                    0 => cutter.strict(),
                    1 => cutter.landed(),
                    2 => cutter.torn(random),
                    _ => cutter.random(random),
                };
                images += 1;
                let wrong = |error: String| self.told(calls, &format!("image {order}: {error}"));
                let found = recover(&image, &bounds).map_err(wrong)?;
                if random.below(1000) < effort.second {
                    let more = after_recovery(&bounds, &image, found, random);
                    images += more.map_err(|error| wrong(format!("afterwards: {error}")))?;
                }
            }
        }
        Ok(images)
    }

    /// Kills the daemon. Returns how often the store was opened.
    ///
    /// # Errors
    /// A text about the first opening that does not show all that was answered.
    pub fn kill(&self, cookies: &Path, cuts: u64, random: &mut Random) -> Result<u64, String> {
        let mut cutter = Cutter::new(&self.run.start, self.loses);
        let mut images = 0;
        for calls in 0..=self.entries.len() {
            if calls > 0 {
                cutter.advance(&self.entries[calls - 1].call);
            }
            if !random.chance(cuts) && calls < self.entries.len() {
                continue;
            }
            let cookie = self.entries.get(calls).map(|entry| &entry.cookie);
            let cookie = cookie.unwrap_or(&self.run.last_cookie).as_ref();
            put_cookie(cookies, cookie);
            let (answered, model) = (self.answered(calls), &self.run.model);
            let promise = match (answered.checked_sub(1), cookie) {
                (None, _) => Promise::default(),
                (Some(op), Some(_)) => model.everything(model.ends[op].1),
                // A sync of the tail failed, and no barrier covers it yet: what is in the page cache does not count.
                (Some(op), None) => (*model.ends[op].0).clone(),
            };
            let opened = Store::open(Arc::new(FakeDisk::of(cutter.landed())), &self.run.options);
            images += 1;
            match opened {
                Ok(opened) => self
                    .bounds(answered, &promise)
                    .judge(&opened.store)
                    .map(drop),
                Err(error) => Err(format!("it does not open: {error:?}")),
            }
            .map_err(|error| self.told(calls, &format!("killed: {error}")))?;
        }
        Ok(images)
    }
}

/// Makes the cookie of the store what it was.
pub fn put_cookie(cookies: &Path, cookie: Option<&(Arc<[u8]>, String)>) {
    for left in std::fs::read_dir(cookies)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        std::fs::remove_file(left.path()).unwrap();
    }
    if let Some((text, name)) = cookie {
        std::fs::write(cookies.join(name), text).unwrap();
    }
}

/// Opens what a power cut left, and compares it with what is allowed.
fn recover(image: &Image, bounds: &Bounds<'_>) -> Result<(Choice, Store, FakeDisk), String> {
    let disk = FakeDisk::of(image.clone());
    let opened = Store::open(Arc::new(disk.clone()), &options(None));
    let store = opened
        .map_err(|error| format!("it does not open: {error:?}"))?
        .store;
    Ok((bounds.judge(&store)?, store, disk))
}

/// A store that recovered opens again, is sound, and goes on: then the power is cut again.
fn after_recovery(
    bounds: &Bounds<'_>,
    image: &Image,
    (choice, store, disk): (Choice, Store, FakeDisk),
    random: &mut Random,
) -> Result<u64, String> {
    let model = survivors(bounds.model, &choice, &store)?;
    drop(store);
    let report = Report::of(&disk, &options(None)).map_err(|error| format!("{error:?}"))?;
    if !report.problems.is_empty() {
        return Err(format!("the check finds {:?}", report.problems));
    }
    let again = Store::open(Arc::new(disk), &options(None));
    let again = again
        .map_err(|error| format!("it does not open again: {error:?}"))?
        .store;
    let all = model.everything(model.pos);
    Bounds::new(&model, &all, model.pos)
        .judge(&again)
        .map_err(|error| format!("the second opening: {error}"))?;
    let mut run = Run::new(image, model, &options(None), random.next());
    // A cut in the recovery takes nothing away from what the image held.
    run.model.ends[0].0 = Arc::new(all);
    run.go_on(random.below(12) as usize);
    run.end();
    let effort = Effort {
        cuts: 20,
        orders: 1,
        second: 0,
    };
    let images = Cuts::of(&run, &run.entries).cut_power(effort, random);
    images.map_err(|error| format!("{error}\nsecond life:\n{}", run.model.told()))
}

/// A model of what was found.
fn survivors(model: &Model, choice: &Choice, store: &Store) -> Result<Model, String> {
    let ids = model.ids.iter().copied();
    let meta = Meta::read(store, ids).map_err(|error| error.to_string())?;
    let mut files = BTreeMap::new();
    for (id, file) in &model.files {
        if !meta.nodes.contains_key(id) {
            continue;
        }
        let mut new = FileModel {
            source: file.source,
            ..FileModel::default()
        };
        if let Some(mut state) = file.state(choice.meta, choice.data[id]) {
            for page in file.pages(&state) {
                if state.side(page) == Side::Data {
                    let bytes = read_page(store, *id, page)?;
                    let bytes: [u8; PAGE as usize] = bytes.try_into().expect("a page");
                    new.land(0, 0, page, Arc::new(bytes));
                }
            }
            state.incarnation = 0;
            (new.base, new.live) = (Some(state.clone()), Some(state));
        }
        files.insert(*id, new);
    }
    let mut survivors = Model::new(meta, files);
    survivors.ids = model.ids.clone();
    survivors.time = model.time;
    Ok(survivors)
}
