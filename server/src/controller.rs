//! The verbs: check, claim, allocate, commit, wait. The only writer of intent.
