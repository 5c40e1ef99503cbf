//! The revision log: state as a fold over a dense, authenticated log of changes.
