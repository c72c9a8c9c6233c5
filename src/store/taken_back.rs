//! What the kernel had when the last life ended.

use std::io;

use super::codec::damaged;
use super::content::Content;
use super::data;
use super::disk::{Disk, How};
use super::effects::{Effects, decoded};
use super::key;
use super::loan::Loan;
use super::node::NodeId;
use super::record::Record;
use super::state::State;

/// More than mmfs lends. A state with more of them is none of mmfs.
const MAX_LOANS: usize = 4 * super::loan::MAX_LENT;
/// Loans that are looked up in one step.
const STEP: usize = 1024;

/// What an opening takes back of the kernel's doings.
#[derive(Default)]
pub struct TakenBack {
    /// By how much the bytes that count for a limit grew.
    pub growth: i64,
    /// Data files that were written to.
    pub dirty: Vec<(NodeId, u64)>,
}

/// Ends the loans of the last life. The data files say how long their files are, all if the daemon was `killed`, else
/// those that the kernel synced.
///
/// # Errors
/// EUCLEAN for a damaged state, or that of a read.
pub fn take_back(state: &State, disk: &dyn Disk, killed: bool) -> io::Result<TakenBack> {
    let (mut last, mut count) = (None::<Vec<u8>>, 0);
    let mut all = TakenBack::default();
    loop {
        let found = state.scan(key::LOANS, last.as_deref(), STEP)?;
        let Some((end, _)) = found.last() else {
            return Ok(all);
        };
        last = Some(end.clone());
        count += found.len();
        if count > MAX_LOANS {
            return Err(damaged());
        }
        for (key, value) in found {
            let key::Key::Loan(id) = key::Key::decode(&key)? else {
                return Err(damaged());
            };
            let (data, loan) = decoded(&value, |from| Ok((from.u64()?, Loan::get(from)?)))?;
            if killed || loan.is_synced {
                match take_back_one(state, disk, (id, data, loan), &mut all) {
                    // A file of which the node or the content is damaged is told when it is read.
                    Err(error)
                        if matches!(
                            error.raw_os_error(),
                            Some(libc::EUCLEAN | libc::ENOENT | libc::EINVAL)
                        ) => {}
                    done => done?,
                }
            }
            state.put([(key, None)].into());
        }
    }
}

fn take_back_one(
    state: &State,
    disk: &dyn Disk,
    (id, data, loan): (NodeId, u64, Loan),
    all: &mut TakenBack,
) -> io::Result<()> {
    let content = state.get(&key::content(id))?;
    let content = content.map(|bytes| decoded(&bytes, Content::get));
    let Some(content) = content.transpose()? else {
        return Ok(());
    };
    // A file of which the data file cannot be opened is told when it is read.
    let file = disk.open(&data::path(id, data), How::Read);
    let Some(file) = file
        .ok()
        .filter(|_| content.is_whole() && content.data == data)
    else {
        return Ok(());
    };
    let (size, time) = file.state()?;
    if size > content.size || time != loan.seen {
        let effects = Effects::of(state, &Record::by_kernel(id, data, size, time))?;
        all.growth = all.growth.saturating_add(effects.growth);
        state.put(effects.puts);
    }
    all.dirty.push((id, data));
    Ok(())
}
