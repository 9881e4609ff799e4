//! The words of netloom's API.
