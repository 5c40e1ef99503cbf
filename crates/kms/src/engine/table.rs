//! Open secrets, by handle.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ciphertext::{Header, KeyId, Kind};
use crate::error::Refusal;
use crate::material::Material;

/// Secrets that are open at a time.
pub const MAX_OPEN: usize = 16 * 1024;

/// An open secret, and whose it is.
pub(super) struct Open {
    pub(super) key: KeyId,
    pub(super) version: u32,
    pub(super) material: Material,
}

#[derive(Default)]
pub(super) struct Table(RwLock<Handles>);

#[derive(Default)]
struct Handles {
    open: HashMap<u32, Arc<Open>>,
    last: u32,
}

impl Open {
    /// The header of what it makes: from what it is, and not from what a caller says.
    pub(super) fn header(&self, kind: Kind) -> Header {
        Header { kind, key_type: self.material.key_type(), key: self.key, version: self.version }
    }
}

impl Table {
    pub(super) fn get(&self, handle: u32) -> Result<Arc<Open>, Refusal> {
        let handles = self.0.read().unwrap_or_else(PoisonError::into_inner);
        handles.open.get(&handle).cloned().ok_or(Refusal::NoHandle)
    }

    /// A handle is never used twice: one that was kept by mistake must not mean another key.
    pub(super) fn keep(&self, open: Open) -> Result<u32, Refusal> {
        let mut handles = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if handles.open.len() >= MAX_OPEN {
            return Err(Refusal::TooManyOpen);
        }
        let handle = handles.last.checked_add(1).ok_or(Refusal::TooManyOpen)?;
        handles.last = handle;
        handles.open.insert(handle, Arc::new(open));
        Ok(handle)
    }

    pub(super) fn forget(&self, handle: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).open.remove(&handle);
    }

    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).open.len()
    }
}
