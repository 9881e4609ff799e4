//! All objects in one immutable snapshot, with the indices that checks need.
