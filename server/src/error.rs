//! The errors that a caller can branch on.
