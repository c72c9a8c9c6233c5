//! What records of data files that the kernel has do to the state.

use std::io;

use super::{Effects, decoded, encoded};
use crate::store::codec::damaged;
use crate::store::content::Content;
use crate::store::key;
use crate::store::loan::Loan;
use crate::store::node::{NodeId, Xattr};
use crate::store::record::Written;

const SETID: u32 = 0o6000;
const CAPABILITY: &[u8] = b"security.capability";

impl Effects<'_> {
    /// Whoever wrote to a file that the kernel has, wrote without its suid, sgid and capabilities being taken.
    pub(super) fn seen(&mut self, id: NodeId, written: &Written) -> io::Result<()> {
        let Some(bytes) = self.get(&key::loan(id))? else {
            return Ok(());
        };
        let (data, loan) = decoded(&bytes, |from| Ok((from.u64()?, Loan::get(from)?)))?;
        if loan.seen == written.time {
            return Ok(());
        }
        self.put_loan(
            id,
            data,
            Loan {
                seen: written.time,
                ..loan
            },
        );
        let mut node = self.node(id)?;
        if let Some(mode) = node.attributes.mode.filter(|mode| mode & SETID != 0) {
            node.attributes.mode = Some(mode & !SETID);
            self.put_node(id, &node)?;
        }
        let capability = key::xattr(id, CAPABILITY);
        if self.get(&capability)?.is_some() {
            self.put(capability, Some(encoded(|to| Xattr::Hidden.put(to))));
        }
        Ok(())
    }

    pub(super) fn lent(&mut self, id: NodeId, data: u64, loan: Option<Loan>) -> io::Result<()> {
        let Some(loan) = loan else {
            self.put(key::loan(id), None);
            return Ok(());
        };
        let content = self.content_or_new(id, data, None)?;
        if content.data != data || !content.is_whole() {
            return Err(damaged());
        }
        let before = content.bytes();
        self.put_content(
            id,
            &Content {
                filed: true,
                ..content
            },
            before,
        );
        self.put_loan(id, data, loan);
        Ok(())
    }

    fn put_loan(&mut self, id: NodeId, data: u64, loan: Loan) {
        self.put(key::loan(id), Some(encoded(|to| loan.put(to.u64(data)))));
    }
}
