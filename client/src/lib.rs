//! A typed client for netloom.
