//! Certificate profiles and templates, linter, rotation state machine.
