//! Pure: what the World wants of the host, one file per noun.
