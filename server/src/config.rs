//! Flags, environment and TOML become one checked configuration; the only reader of the environment.
