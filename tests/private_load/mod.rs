//! A private view under load, and what must be there when its daemon or its machine has died.

pub mod load;
pub mod verify;
