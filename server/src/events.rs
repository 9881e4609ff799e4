//! The event log's followers: they are told only what was committed.
