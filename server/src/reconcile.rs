//! The loop: wake, want, observe, plan, apply, status.
