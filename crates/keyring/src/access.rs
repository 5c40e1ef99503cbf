//! Whether there is a device.

use std::sync::Arc;

use crate::{Device, DeviceConfig, KeyringError};

/// The device of this process, or why there is none. A device that is away keeps nobody from what is not in it.
#[derive(Clone, Debug, Default)]
pub enum DeviceAccess {
    /// None is configured.
    #[default]
    None,
    /// It is there.
    Open(Device),
    /// One is configured, and can't be used.
    Away(Arc<KeyringError>),
}

impl DeviceAccess {
    /// Loads the module of the device that is configured, if one is, and logs in. Blocks.
    #[must_use]
    pub fn open(config: Option<&DeviceConfig>) -> Self {
        match config.map(Device::open) {
            None => Self::None,
            Some(Ok(device)) => Self::Open(device),
            Some(Err(error)) => Self::Away(Arc::new(error)),
        }
    }

    /// The device.
    ///
    /// # Errors
    /// [`KeyringError::NoDevice`]; why it can't be used.
    pub fn get(&self) -> Result<&Device, KeyringError> {
        match self {
            Self::None => Err(KeyringError::NoDevice),
            Self::Open(device) => Ok(device),
            Self::Away(error) => Err(error.again()),
        }
    }

    /// Why a device that is configured can't be used.
    #[must_use]
    pub fn problem(&self) -> Option<KeyringError> {
        match self {
            Self::Away(error) => Some(error.again()),
            Self::None | Self::Open(_) => None,
        }
    }
}
