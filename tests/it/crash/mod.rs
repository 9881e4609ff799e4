//! Nothing leaks and nothing is lost, wherever the daemon dies and whatever is refused to it.
//!
//! - `story`: what is told; a story is a list of calls
//! - `scene`: the kernel as text, which tells whether two ends of a story are the same
//! - `sweep`: the daemon dies at every point of every effect of a story
//! - `recovery`: it dies again, at every point of the start that follows
//! - `errors`: every request to the kernel and to the database is refused, or loses its answer, once
//! - `leaving`: the same of `netloomd purge` and `netloomd backup`
//!
//! In CI each takes a spread of the points, every effect among them. `NETLOOM_SWEEP=full` takes all, with every error
//! (and `NETLOOM_TEST_SECONDS=3600`, since that takes longer than a test may).

mod errors;
mod leaving;
mod recovery;
pub mod scene;
mod story;
mod sweep;

/// Whether all is to be tried.
fn is_full() -> bool {
    std::env::var("NETLOOM_SWEEP").is_ok_and(|value| value == "full")
}

/// All of them in a full sweep; else so many, spread evenly, and in any case the first that shows each sort of thing.
fn spread<T: Clone, K: Ord>(all: &[T], most: usize, sort: impl Fn(&T) -> K) -> Vec<T> {
    if is_full() || all.len() <= most {
        return all.to_vec();
    }
    let mut seen = std::collections::BTreeSet::new();
    let picked = all.iter().enumerate().filter(|(index, one)| {
        let is_new = seen.insert(sort(one));
        is_new || index * most / all.len() != (index + 1) * most / all.len()
    });
    picked.map(|(_, one)| one.clone()).collect()
}
