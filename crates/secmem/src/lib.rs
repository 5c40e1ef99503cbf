//! Protected buffers and process hardening: the only unsafe code of ours.
