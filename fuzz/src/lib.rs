//! Fuzzing on the stable toolchain: a decoder is given what it should read, changed at random, for a while.
//!
//! What is tried begins with true examples, since random bytes rarely pass the first check of a decoder: bytes and bits
//! change, pieces go, come twice or come from another example, lengths lie, the end is missing. A failure is shrunk to the
//! few changes that make it, and printed as bytes that a test can be made of.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

/// How many seconds each decoder is tried.
pub const SECONDS: &str = "NETLOOM_FUZZ_SECONDS";
/// Without the variable, in the tests that everybody runs.
const SHORT: Duration = Duration::from_millis(200);
/// Between two looks at the clock.
const AT_ONCE: u32 = 64;
/// Changes to one example.
const CHANGES: usize = 6;
/// The longest piece that is put in or taken out.
const PIECE: usize = 24;
/// Nothing that is read takes so long, unless it does not end.
const PATIENCE: Duration = Duration::from_secs(10);

/// One change of an example.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    Bit(Index, u8),
    /// A 16-bit number, as lengths are on netlink.
    Number(Index, u16),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// A piece of another example.
    Graft(Index, Index, Index, usize),
    Truncate(Index),
}

/// Fails when the decoder panics on an example or on something like one, or takes ten seconds.
///
/// # Panics
///
/// That is how it fails.
#[allow(clippy::panic)] // It is called by tests.
pub fn withstands(examples: &[Vec<u8>], decode: impl Fn(&[u8])) {
    assert!(!examples.is_empty(), "there is nothing to begin with");
    let decode = |bytes: &[u8]| {
        let begin = Instant::now();
        decode(bytes);
        assert!(begin.elapsed() < PATIENCE, "{} bytes took {:?}", bytes.len(), begin.elapsed());
    };
    examples.iter().for_each(|example| decode(example));
    let config = Config { cases: AT_ONCE, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let strategy = (any::<Index>(), prop::collection::vec(change(), 0..CHANGES));
    let end = Instant::now() + time();
    while Instant::now() < end {
        let tried = runner.run(&strategy, |(example, changes)| {
            decode(&changed(examples, &example, &changes));
            Ok::<_, TestCaseError>(())
        });
        if let Err(TestError::Fail(why, (example, changes))) = tried {
            let bytes = changed(examples, &example, &changes);
            panic!("{why}\nbytes: {}\ntext: {:?}", hex(&bytes), String::from_utf8_lossy(&bytes));
        }
    }
}

/// The same for a decoder of text.
pub fn withstands_text(examples: &[&str], decode: impl Fn(&str)) {
    let examples: Vec<Vec<u8>> = examples.iter().map(|example| example.as_bytes().to_vec()).collect();
    withstands(&examples, |bytes| decode(&String::from_utf8_lossy(bytes)));
}

fn time() -> Duration {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok());
    seconds.map_or(SHORT, Duration::from_secs_f64)
}

fn change() -> impl Strategy<Value = Change> {
    let odd_byte = prop_oneof![any::<u8>(), prop::sample::select(b"\0\x01\x7f\xff/:.,-\"{}[]% \n".to_vec())];
    let odd_number =
        prop_oneof![any::<u16>(), 0..12_u16, prop::sample::select(vec![u16::MAX, 0x7fff, 0x8000])];
    prop_oneof![
        (any::<Index>(), odd_byte).prop_map(|(at, to)| Change::Byte(at, to)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Bit(at, bit)),
        (any::<Index>(), odd_number).prop_map(|(at, to)| Change::Number(at, to)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..PIECE))
            .prop_map(|(at, piece)| Change::Insert(at, piece)),
        (any::<Index>(), 1..PIECE).prop_map(|(at, length)| Change::Remove(at, length)),
        (any::<Index>(), any::<Index>(), any::<Index>(), 1..4 * PIECE)
            .prop_map(|(at, from, start, length)| Change::Graft(at, from, start, length)),
        any::<Index>().prop_map(Change::Truncate),
    ]
}

fn changed(examples: &[Vec<u8>], example: &Index, changes: &[Change]) -> Vec<u8> {
    let mut bytes = example.get(examples).clone();
    for change in changes {
        let length = bytes.len();
        let place = |at: &Index| at.index(length + 1);
        match change {
            Change::Byte(at, to) => bytes.iter_mut().skip(place(at)).take(1).for_each(|byte| *byte = *to),
            Change::Bit(at, bit) => {
                bytes.iter_mut().skip(place(at)).take(1).for_each(|byte| *byte ^= 1 << bit)
            }
            Change::Number(at, to) => {
                let places = bytes.iter_mut().skip(place(at)).zip(to.to_ne_bytes());
                places.for_each(|(byte, to)| *byte = to);
            }
            Change::Insert(at, piece) => {
                let at = place(at);
                drop(bytes.splice(at..at, piece.iter().copied()));
            }
            Change::Remove(at, count) => {
                let at = place(at);
                drop(bytes.drain(at..length.min(at + count)));
            }
            Change::Graft(at, from, start, count) => {
                let other = from.get(examples);
                let start = start.index(other.len() + 1);
                let piece = other.iter().skip(start).take(*count).copied().collect::<Vec<u8>>();
                let at = place(at);
                drop(bytes.splice(at..at, piece));
            }
            Change::Truncate(at) => bytes.truncate(place(at)),
        }
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A String takes all that is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "bytes: ")]
    fn a_decoder_that_believes_a_length_is_found_out() {
        let example = [4, 0, 1, 2, 3, 4].to_vec();
        withstands(&[example], |bytes| {
            let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
            let length = usize::from(u16::from_ne_bytes(*length));
            assert!(length < 0x8000 || rest.len() > length);
        });
    }

    #[test]
    fn an_example_without_changes_is_tried_first() {
        let seen = std::cell::Cell::new(0);
        withstands_text(&["one", "two"], |text| {
            if matches!((seen.get(), text), (0, "one") | (1, "two")) {
                seen.set(seen.get() + 1);
            }
        });
        assert_eq!(seen.get(), 2);
    }
}
