//! The two doors: words in, words out; no decisions.
