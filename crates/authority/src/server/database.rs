//! How the database of all servers is reached.

use std::io;
use std::sync::Arc;

use bonafide_identity::time::Clock;
use bonafide_store::{BoxFuture, Duplex, Encryption, PostgresAddress};
use bonafide_tls::NamedServers;

use super::StartError;
use crate::config::{AuthorityConfig, StoreConfig};
use crate::seals::read_passphrase;

/// TLS to a database whose certificate is under a CA that the configuration names.
#[derive(Debug)]
struct DatabaseTls(NamedServers);

impl Encryption for DatabaseTls {
    fn encrypt<'a>(
        &'a self,
        host: &'a str,
        plain: Box<dyn Duplex>,
    ) -> BoxFuture<'a, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let encrypted = self.0.connect(host, plain).await?;
            Ok(Box::new(encrypted) as Box<dyn Duplex>)
        })
    }
}

/// The database, with the password and the CA that files hold; none if the store is a file.
pub(super) fn address(
    config: &AuthorityConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Option<PostgresAddress>, StartError> {
    let StoreConfig::Postgres { url, password_file, ca_file } = &config.store else { return Ok(None) };
    let mut address = url.clone();
    if let Some(file) = password_file {
        let password = read_passphrase(file)
            .map_err(|cause| StartError::io(&format!("the password in `{}`", file.display()), cause))?;
        address = address.with_password(password.expose());
    }
    if let Some(file) = ca_file {
        let roots = std::fs::read(file)
            .map_err(|cause| StartError::io(&format!("the CA in `{}`", file.display()), cause))?;
        let servers = NamedServers::new(&roots, Arc::clone(clock))?;
        address = address.with_encryption(Arc::new(DatabaseTls(servers)));
    }
    Ok(Some(address))
}
