//! Each sync of the store is needed, and so is its order: without it, a power cut shows.
//!
//! The store does what it does; the recorded list of its calls is changed before images are built from it.
