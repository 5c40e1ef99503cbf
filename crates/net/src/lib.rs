//! Listeners, limits, drain, health, telemetry.
