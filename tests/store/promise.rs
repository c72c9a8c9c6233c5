//! What syncs and barriers promise.

use std::collections::BTreeMap;

use mmfs::store::NodeId;

use super::file_model::Event;
use super::recorded::{Model, Op};

/// What is durable at least: positions in the order of all that happened.
#[derive(Debug, Clone, Default)]
pub struct Promise {
    pub meta: u64,
    pub data: BTreeMap<NodeId, u64>,
    pub bytes: BTreeMap<NodeId, u64>,
}

impl Model {
    /// More may be durable than syncs promise.
    pub fn doubt(&mut self) {
        self.maybe = self.pos;
    }

    /// What a sync promises that began when `before` was the model.
    pub fn apply_of(&mut self, before: &Self, op: &Op) {
        let mut then = before.clone();
        then.apply(op);
        self.promise.meta = self.promise.meta.max(then.promise.meta);
        for (mine, theirs) in [
            (&mut self.promise.data, then.promise.data),
            (&mut self.promise.bytes, then.promise.bytes),
        ] {
            for (id, pos) in theirs {
                let mine = mine.entry(id).or_default();
                *mine = pos.max(*mine);
            }
        }
        self.doubt();
    }

    pub fn sync(&mut self, id: NodeId, data_only: bool) {
        let touched = self.touched.get(&id).copied().unwrap_or(0);
        let counts =
            |(_, event): &&(u64, Event)| event.is_data() && !(data_only && event.is_time_only());
        let last = self
            .files
            .get(&id)
            .and_then(|file| file.events.iter().rev().find(counts));
        let last = last.map_or(0, |(pos, _)| *pos);
        if touched.max(last) > self.maybe {
            // Something of the node is surely not durable yet. So a record is written, which covers all of class M.
            self.promise_placed();
            self.promise.meta = self.last_meta();
        }
        self.promise.meta = self.promise.meta.max(touched);
        let data = self.promise.data.entry(id).or_default();
        *data = last.max(*data);
        self.promise.bytes.insert(id, self.pos);
        self.maybe = self.pos;
    }

    pub fn sync_names(&mut self) {
        if self.last_meta() > self.maybe {
            self.promise_placed();
        }
        self.promise.meta = self.last_meta();
        self.doubt();
    }

    /// Nodes that took the place of others by records that become durable now: their bytes do too.
    fn promise_placed(&mut self) {
        for (id, file) in &self.files {
            let places = |(pos, event): &(u64, Event)| event.places() && *pos > self.maybe;
            if !file.events.iter().any(places) {
                continue;
            }
            let bytes = |(_, event): &&(u64, Event)| event.is_data() && !event.is_time_only();
            let last = file.events.iter().rfind(bytes).map_or(0, |(pos, _)| *pos);
            let data = self.promise.data.entry(*id).or_default();
            *data = last.max(*data);
            self.promise.bytes.insert(*id, self.pos);
        }
    }

    pub fn promise_all(&mut self) {
        self.promise = self.everything(self.pos);
        self.maybe = self.pos;
    }

    /// The promise that all up to here is kept.
    pub fn everything(&self, pos: u64) -> Promise {
        let all: BTreeMap<NodeId, u64> = self.ids.iter().map(|id| (*id, pos)).collect();
        Promise {
            meta: self
                .metas
                .iter()
                .rev()
                .find(|(at, _)| *at <= pos)
                .map_or(0, |(at, _)| *at),
            data: all.clone(),
            bytes: all,
        }
    }
}
