//! Where the database is.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

use super::Encryption;
use crate::StoreError;

/// How long one attempt to connect may take, unless the address says otherwise.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long a server may leave what was sent to it without an acknowledgement.
const UNHEARD: Duration = Duration::from_secs(15);

/// The address of a PostgreSQL database, with whatever proves who we are. Shows no password, not in `Debug` either.
#[derive(Clone)]
pub struct PostgresAddress {
    config: Config,
    encryption: Option<Arc<dyn Encryption>>,
}

impl PostgresAddress {
    /// Whether a password is part of it.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.config.get_password().is_some()
    }

    /// With this password, in place of the one that was part of it.
    #[must_use]
    pub fn with_password(mut self, password: &[u8]) -> Self {
        self.config.password(password);
        self
    }

    /// Whether it asks for TLS, and so for [`Self::with_encryption`].
    #[must_use]
    pub fn wants_encryption(&self) -> bool {
        self.config.get_ssl_mode() == SslMode::Require
    }

    /// Never without this encryption, whatever the address said of TLS.
    #[must_use]
    pub fn with_encryption(mut self, encryption: Arc<dyn Encryption>) -> Self {
        self.config.ssl_mode(SslMode::Require);
        self.encryption = Some(encryption);
        self
    }

    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn encryption(&self) -> Result<Option<Arc<dyn Encryption>>, StoreError> {
        if self.wants_encryption() && self.encryption.is_none() {
            let what =
                "the address asks for TLS, and no CA is named that the database's certificate is under";
            return Err(StoreError::Invalid { what });
        }
        Ok(self.encryption.clone())
    }
}

impl FromStr for PostgresAddress {
    type Err = StoreError;

    /// Reads `postgres://USER@HOST/DATABASE` or `host=… dbname=…`, as libpq does. `sslmode=require` asks
    /// for TLS, with a certificate that is verified as libpq does for `verify-full`. Without it only a Unix socket and this
    /// machine are accepted, unless `sslmode=disable` says that the network is trusted.
    ///
    /// # Errors
    /// [`StoreError::Invalid`]; what was given is not in the error, because a password may be in it.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let invalid = |what| StoreError::Invalid { what };
        let mut config: Config =
            text.parse().map_err(|_| invalid("the address is no connection string of PostgreSQL"))?;
        if config.get_dbname().is_none() {
            return Err(invalid("the address names no database"));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(invalid("the address names no host"));
        }
        match config.get_ssl_mode() {
            SslMode::Disable | SslMode::Require => {}
            // What an attacker can make plain is plain.
            SslMode::Prefer if is_local(&config) => _ = config.ssl_mode(SslMode::Disable),
            _ => {
                return Err(invalid(
                    "a connection to another machine is to be encrypted: say `sslmode=require`, or `sslmode=disable` if the network is trusted",
                ));
            }
        }
        // A standby may be behind, and can't be written.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.keepalives_idle(Duration::from_secs(10)).keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3).tcp_user_timeout(UNHEARD);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIME);
        }
        if config.get_application_name().is_none() {
            config.application_name("bonafide");
        }
        Ok(Self { config, encryption: None })
    }
}

fn is_local(config: &Config) -> bool {
    let names = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
        Host::Unix(_) => true,
    });
    names && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", self.config.get_user().unwrap_or_default())?;
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let long = "postgres://user:hunter2@localhost/db";
        let address: PostgresAddress = long.parse().unwrap();
        assert!(address.has_password());
        assert_eq!(format!("{address} {address:?}"), {
            let shown = "postgres://user@localhost/db";
            format!("{shown} PostgresAddress({shown})")
        });
        for broken in ["postgres://user:hunter2@local host/db?x=hunter2", "postgres://u:hunter2@h:port/d"] {
            let error = broken.parse::<PostgresAddress>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn nothing_goes_over_a_network_in_clear_by_itself() {
        for (text, fits) in [
            ("postgres://u@/db?host=/run/postgresql", true),
            ("host=/run/postgresql dbname=db user=u", true),
            ("postgres://u@127.0.0.1/db", true),
            ("postgres://u@[::1]/db", true),
            ("postgres://u@10.0.0.1/db", false),
            ("postgres://u@db.example.org/db", false),
            ("postgres://u@localhost,db.example.org/db", false),
            ("postgres://u@db.example.org/db?sslmode=disable", true),
            ("postgres://u@db.example.org/db?sslmode=require", true),
            ("postgres://u@db.example.org/db?sslmode=prefer", false),
            ("postgres://u@localhost", false),
            ("dbname=db", false),
            ("", false),
        ] {
            let parsed = text.parse::<PostgresAddress>();
            assert_eq!(parsed.is_ok(), fits, "{text}: {parsed:?}");
        }
        let address: PostgresAddress = "postgres://u@localhost/db?sslmode=require".parse().unwrap();
        assert!(address.wants_encryption());
        assert!(address.encryption().unwrap_err().to_string().contains("TLS"), "never in clear instead");
    }
}
