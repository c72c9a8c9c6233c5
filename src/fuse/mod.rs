//! The FUSE side of a session. It decodes requests, passes them to `Fs` through `dispatch`, and answers them. Modules below do
//! not use types of the FUSE library.

mod adapter;
mod channel;
mod convert;
mod discards;
mod facts;
mod gated;
mod ioctl;
mod negotiation;
mod opening;
mod passthrough;
mod reply;
mod requests;
mod served;

pub use adapter::Adapter;
pub use channel::{Channel, NOT_ANSWERING};
pub use facts::Facts;
pub use negotiation::{features, negotiate};
pub use passthrough::offers_passthrough;
