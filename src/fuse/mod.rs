//! The FUSE side of a session: requests are decoded, given to `Fs` through `dispatch`, and answered. Types of the FUSE
//! library end here.

mod adapter;
mod convert;
mod ioctl;
mod negotiation;
mod passthrough;
mod reply;
mod requests;

pub use adapter::Adapter;
pub use negotiation::{features, negotiate};
pub use passthrough::offers_passthrough;
