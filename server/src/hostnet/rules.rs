//! The firewall as values: the sets and maps that grow, and their elements.
