//! Fakes, clocks and throw-away trust domains for tests.
