//! Pure address management: which address comes next, or that there is none.
