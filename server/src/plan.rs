//! Turns the host we have into the host we want, as ordered steps.
