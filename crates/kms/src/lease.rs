//! Data keys that are lent for a time: the borrower's side, as a state machine.
