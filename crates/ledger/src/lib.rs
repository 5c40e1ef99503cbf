//! Append-only verifiable logs: tiles, checkpoints, proofs (C2SP tlog-tiles).
