//! Golden files are written by the tests that compare them, so there is one place that knows how.

use crate::cargo::cargo;

/// Runs the golden tests in the mode that writes.
pub(crate) fn update() -> anyhow::Result<()> {
    cargo(
        &["test", "--package", "netloom-api", "--package", "netloom-server", "--lib", "golden"],
        &[("UPDATE_GOLDEN", "1")],
    )
}
