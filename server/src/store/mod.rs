//! The only SQL: one writer task, group commit, rows and types.
