//! Seals, root key, wrapping keys and wrapped keys.
