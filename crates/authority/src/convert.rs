//! Between the wire, the store's records and the typed forms. What comes from the wire is refused with reasons; what
//! comes from the store was checked when it was written, and only has to be whole.

pub(crate) mod record;
pub(crate) mod wire;
