//! Where the two meet that do not know each other: the keyring's worker, and the engine of applications' keys.

use std::sync::Arc;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::random::Random;
use bonafide_keyring::{Handler, Wrapping};
use bonafide_kms::engine::Engine;

/// The engine, as something that lives beside the keys of the authority.
#[derive(Debug)]
struct Applications(Engine);

/// What a key worker is started with, so that it holds applications' keys too.
#[must_use]
pub fn application_keys(random: Arc<dyn Random>) -> Arc<dyn Handler> {
    Arc::new(Applications(Engine::new(random)))
}

impl Handler for Applications {
    fn prefix(&self) -> &'static str {
        "kms/"
    }

    fn answer(&self, wrapping: &Wrapping<'_>, request: &[u8]) -> Erased {
        self.0.answer(&Keyring(wrapping), request)
    }
}

struct Keyring<'a>(&'a Wrapping<'a>);

impl bonafide_kms::engine::Wrapping for Keyring<'_> {
    fn wrap(&self, context: &str, secret: &[u8]) -> Option<Vec<u8>> {
        self.0.wrap(context, secret).ok()
    }

    fn unwrap(&self, context: &str, wrapped: &[u8]) -> Option<Erased> {
        self.0.unwrap(context, wrapped).ok()
    }
}
