//! Helpers of netloom's tests.
