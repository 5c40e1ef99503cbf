//! Sessions with a token: opened when they are needed, logged in once, and opened again when the token was away.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::DeviceConfig;
use crate::KeyringError;

/// Sessions that wait for the next signature.
const MAX_IDLE: usize = 64;

pub(super) struct Sessions {
    context: Pkcs11,
    module: PathBuf,
    token: String,
    /// Zeroed when dropped, and never printed.
    pin: AuthPin,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts logins: handles of objects are valid for one.
    epoch: u64,
    connection: Option<Connection>,
    /// The device did not take the PIN. A few more attempts would lock it.
    pin_refused: bool,
}

struct Connection {
    slot: Slot,
    /// Holds the login while no other session is open.
    _anchor: Session,
    idle: Vec<Session>,
}

impl Sessions {
    pub(super) fn open(config: &DeviceConfig) -> Result<Self, KeyringError> {
        let module = |error: Error| KeyringError::DeviceModule {
            module: config.module.clone(),
            why: error.to_string(),
        };
        let context = Pkcs11::new(&config.module).map_err(module)?;
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(module(error)),
        }
        let pin = std::str::from_utf8(config.pin.expose()).map_err(|_| KeyringError::DevicePin)?;
        let sessions = Self {
            context,
            module: config.module.clone(),
            token: config.token.clone(),
            pin: AuthPin::new(pin.into()),
            state: Mutex::default(),
        };
        sessions.with(|_, _| Ok(()))?;
        Ok(sessions)
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Does something in a session that is logged in; once more in another one, if the token was away meanwhile. Tells
    /// `work` which login it is.
    pub(super) fn with<T>(
        &self,
        work: impl Fn(&Session, u64) -> Result<T, Failure>,
    ) -> Result<T, KeyringError> {
        let mut lost = false;
        loop {
            let (session, epoch) = self.take()?;
            match work(&session, epoch) {
                Ok(done) => {
                    self.give_back(session, epoch);
                    return Ok(done);
                }
                Err(Failure::Device(error)) if !lost && is_lost(&error) => {
                    lost = true;
                    drop(session);
                    self.forget(epoch);
                }
                Err(Failure::Device(error)) => return Err(failed(&error)),
                Err(Failure::Other(error)) => return Err(error),
            }
        }
    }

    fn take(&self) -> Result<(Session, u64), KeyringError> {
        let mut state = self.lock();
        if state.connection.is_none() {
            if state.pin_refused {
                return Err(KeyringError::DevicePin);
            }
            let connected = self.connect();
            state.pin_refused = matches!(connected, Err(KeyringError::DevicePin));
            state.connection = Some(connected?);
            state.epoch += 1;
        }
        let epoch = state.epoch;
        let Some(connection) = &mut state.connection else {
            return Err(KeyringError::DeviceToken(self.token.clone()));
        };
        let slot = connection.slot;
        if let Some(session) = connection.idle.pop() {
            return Ok((session, epoch));
        }
        drop(state);
        match self.context.open_rw_session(slot) {
            Ok(session) => Ok((session, epoch)),
            Err(error) => {
                self.forget(epoch);
                Err(failed(&error))
            }
        }
    }

    fn give_back(&self, session: Session, epoch: u64) {
        let mut state = self.lock();
        if state.epoch == epoch
            && let Some(connection) = &mut state.connection
            && connection.idle.len() < MAX_IDLE
        {
            connection.idle.push(session);
        }
    }

    fn forget(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch == epoch {
            state.connection = None;
        }
    }

    fn connect(&self) -> Result<Connection, KeyringError> {
        let module =
            |error: Error| KeyringError::DeviceModule { module: self.module.clone(), why: error.to_string() };
        let slots = self.context.get_slots_with_initialized_token().map_err(module)?;
        let mut ours = slots
            .into_iter()
            .filter(|slot| self.context.get_token_info(*slot).is_ok_and(|info| info.label() == self.token));
        let slot = ours.next().ok_or_else(|| KeyringError::DeviceToken(self.token.clone()))?;
        if ours.next().is_some() {
            return Err(KeyringError::DeviceToken(format!("{}` is the label of several: `{0}", self.token)));
        }
        let anchor = self.context.open_rw_session(slot).map_err(|error| failed(&error))?;
        match anchor.login(UserType::User, Some(&self.pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(Error::Pkcs11(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinLocked
                | RvError::PinExpired,
                _,
            )) => return Err(KeyringError::DevicePin),
            Err(error) => return Err(failed(&error)),
        }
        Ok(Connection { slot, _anchor: anchor, idle: Vec::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why something in a session failed.
pub(super) enum Failure {
    Device(Error),
    Other(KeyringError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Device(error)
    }
}

impl From<KeyringError> for Failure {
    fn from(error: KeyringError) -> Self {
        Self::Other(error)
    }
}

/// The error's name in PKCS#11, and the function; no text of a vendor's.
fn failed(error: &Error) -> KeyringError {
    KeyringError::DeviceFailed(match error {
        Error::Pkcs11(code, function) => format!("{code:?} from {function:?}"),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    })
}

/// The session, the login or the token is not there any more.
pub(super) fn is_lost(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::DeviceError
                | RvError::DeviceRemoved
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                | RvError::SessionClosed
                | RvError::SessionHandleInvalid
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::UserNotLoggedIn,
            _
        )
    )
}
