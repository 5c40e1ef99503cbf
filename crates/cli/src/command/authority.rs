//! `authority init|run`: one authority server.

use std::{
    fmt, fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use bonafide_authority::config::{AuthorityConfig, ConfigError, SealConfig};
use bonafide_identity::TrustDomain;

use crate::{Console, Failure, roles, socket::AUTHORITY_DATA};

/// Where the settings are unless told otherwise.
const CONFIG: &str = "/etc/bonafide/authority.toml";
const TEMPLATE: &str = include_str!("authority.toml");

/// One authority server.
#[expect(clippy::large_enum_variant, reason = "there is one of them in a process")]
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AuthorityCommand {
    /// Make the data directory of a new authority, and a settings file with every default and what it means
    Init {
        /// The trust domain that this server is authority of
        #[arg(long)]
        trust_domain: TrustDomain,
        /// The file to write; must not exist
        #[arg(long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
        /// Holds keyring, store, ledger and the admin socket
        #[arg(long, value_name = "DIR", default_value = AUTHORITY_DATA)]
        data: PathBuf,
        /// Where agents and remote admins connect [default: 0.0.0.0:8443]
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<SocketAddr>,
        /// What join lines tell new nodes [default: where it listens]
        #[arg(long, value_name = "HOST:PORT", value_parser = address)]
        address: Option<String>,
        /// Seal the root key with the passphrase in this file [default: with a key file in the data directory]
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Keep the store in this PostgreSQL database, which several servers may share [default: in a file in the data
        /// directory]
        #[arg(long, value_name = "postgres://USER@HOST/DATABASE", value_parser = store)]
        store: Option<Store>,
        /// Name of this server, unique in its trust domain [default: a]
        #[arg(long, value_name = "NAME")]
        server: Option<String>,
        /// Make one more server: take keyring and seal from this data directory of a server on the same store
        #[arg(long, value_name = "DIR", requires = "store", requires = "server")]
        beside: Option<PathBuf>,
    },
    /// Run the authority until it is told to end
    Run(Box<RunArgs>),
}

/// The address of a database. Not shown: a password may be in it.
#[derive(Clone)]
pub struct Store(String);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store(..)")
    }
}

/// Whatever is wrong with it is said when the settings are read: clap would repeat what was given, and a password may
/// be in that.
#[expect(clippy::unnecessary_wraps, reason = "clap's signature")]
fn store(text: &str) -> Result<Store, String> {
    Ok(Store(text.to_owned()))
}

/// `authority run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Settings; what is given here as a flag overrides them [default: /etc/bonafide/authority.toml, unless
    /// --trust-domain is given]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The trust domain that this server is authority of
    #[arg(long)]
    trust_domain: Option<TrustDomain>,
    /// Holds keyring, store, ledger and the admin socket
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where agents and remote admins connect
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// What join lines tell new nodes
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    address: Option<String>,
    /// Seal the root key with the passphrase in this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Accept a store or a ledger that is older than the other one says; for one start
    #[arg(long)]
    accept_restore: bool,
}

/// Runs the command.
///
/// # Errors
/// Settings that cannot hold, files that cannot be written, and what keeps the authority from starting.
pub async fn run(command: AuthorityCommand, console: &Console) -> Result<(), Failure> {
    match command {
        AuthorityCommand::Init {
            trust_domain,
            config,
            data,
            listen,
            address,
            passphrase_file,
            store,
            server,
            beside,
        } => {
            let data = std::path::absolute(&data).map_err(|source| Failure::read(&data, source))?;
            let mut text =
                fill(&trust_domain, &data, listen, address.as_deref(), passphrase_file.as_deref())?;
            if let Some(server) = server {
                text = text.replace("#server = \"a\"", &format!("server = {}", quoted(&server)));
            }
            if let Some(Store(url)) = store {
                let store = format!("[store]\nkind = \"postgres\"\nurl = {}", quoted(&url));
                text = text.replace("#[store]\n#kind = \"sqlite\"", &store);
            }
            let settings = AuthorityConfig::parse(&text).map_err(|cause| config_failure(&config, &cause))?;
            write_new(&config, &text)?;
            // Without settings nobody would find the data; settings without data can be tried again.
            let created = match beside {
                Some(of) => roles::create_authority_beside(&settings, &of, console).await,
                None => roles::create_authority(&settings, console).await,
            };
            created.inspect_err(|_| {
                let _ = fs::remove_file(&config);
            })?;
            console.note(format!("wrote {} and {}", config.display(), data.display()));
            console.note(format!("next: bonafide authority run --config {}", config.display()));
            Ok(())
        }
        AuthorityCommand::Run(arguments) => {
            let settings = arguments.settings()?;
            roles::init_logs("info")?;
            roles::serve_authority(settings, console).await
        }
    }
}

/// The template with what was given.
fn fill(
    trust_domain: &TrustDomain,
    data: &Path,
    listen: Option<SocketAddr>,
    address: Option<&str>,
    passphrase_file: Option<&Path>,
) -> Result<String, Failure> {
    let mut text = TEMPLATE
        .replace("@TRUST_DOMAIN@", trust_domain.as_str())
        .replace("\"@DATA_DIR@\"", &quoted(&data.display().to_string()));
    if let Some(listen) = listen {
        text = text.replace("#listen = \"0.0.0.0:8443\"", &format!("listen = \"{listen}\""));
    }
    if let Some(address) = address {
        text = text
            .replace("#address = \"authority.example.org:8443\"", &format!("address = {}", quoted(address)));
    }
    if let Some(file) = passphrase_file {
        let file = std::path::absolute(file).map_err(|source| Failure::read(file, source))?;
        let seal = format!("[seal]\nkind = \"passphrase\"\nfile = {}", quoted(&file.display().to_string()));
        text = text.replace("#[seal]\n#kind = \"key-file\"", &seal);
    }
    Ok(text)
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|source| Failure::write(folder, source))?;
    }
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Failure::write(path, source))
}

/// `host:port`, as join lines carry it.
fn address(text: &str) -> Result<String, String> {
    bonafide_attest::join::check_address(text).map(|()| text.to_owned()).map_err(|cause| cause.to_string())
}

impl RunArgs {
    fn settings(self) -> Result<AuthorityConfig, Failure> {
        let mut config = match (&self.config, &self.trust_domain) {
            (None, Some(trust_domain)) => AuthorityConfig::new(trust_domain.clone(), AUTHORITY_DATA),
            (path, _) => read(path.as_deref().unwrap_or(Path::new(CONFIG)))?,
        };
        if let Some(trust_domain) = self.trust_domain {
            config.trust_domain = trust_domain;
        }
        if let Some(data) = self.data {
            config.data_dir = data;
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(address) = self.address {
            config.address = Some(address);
        }
        if let Some(file) = self.passphrase_file {
            config.seal = SealConfig::Passphrase { file };
        }
        config.accept_restore = self.accept_restore;
        config.check().map_err(|cause| Failure::of(cause.code(), &cause, cause.hint()))?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<AuthorityConfig, Failure> {
    let text = fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Failure::usage(
            format!("there are no settings at `{}`", path.display()),
            "write them with `bonafide authority init`, name them with --config, or give --trust-domain",
        ),
        _ => Failure::read(path, source),
    })?;
    AuthorityConfig::parse(&text).map_err(|cause| config_failure(path, &cause))
}

fn config_failure(path: &Path, cause: &ConfigError) -> Failure {
    Failure::of(cause.code(), format!("{}: {cause}", path.display()), cause.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_to_init_is_what_run_reads() {
        let trust_domain = "example.org".parse().unwrap();
        let listen = "127.0.0.1:9".parse().unwrap();
        let data = Path::new("/odd \"quoted\" \\ name");
        let text =
            fill(&trust_domain, data, Some(listen), Some("a.org:1"), Some(Path::new("/pass"))).unwrap();
        let config = AuthorityConfig::parse(&text).unwrap();
        assert_eq!((config.data_dir.as_path(), config.listen), (data, listen));
        assert_eq!(config.address.as_deref(), Some("a.org:1"));
        assert!(matches!(config.seal, SealConfig::Passphrase { file } if file == Path::new("/pass")));
    }

    fn filled(text: &str) -> String {
        text.replace("@TRUST_DOMAIN@", "example.org").replace("@DATA_DIR@", "/x")
    }

    #[test]
    fn the_template_is_every_default() {
        let config = AuthorityConfig::parse(&filled(TEMPLATE)).unwrap();
        let default = AuthorityConfig::new("example.org".parse().unwrap(), "/x");
        assert_eq!(format!("{config:?}"), format!("{default:?}"));
    }

    #[test]
    fn no_file_accepts_a_restore() {
        let text = format!("accept_restore = true\n{}", filled(TEMPLATE));
        assert!(AuthorityConfig::parse(&text).is_err());
    }

    #[test]
    fn what_the_template_comments_out_is_true() {
        // Prose begins with `# `, settings with `#` alone.
        let lines = TEMPLATE.lines().map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting,
            _ => line,
        });
        let text = filled(&lines.collect::<Vec<_>>().join("\n"));
        let mut config = AuthorityConfig::parse(&text).unwrap();
        assert_eq!(config.admin_gid.take(), Some(1000));
        assert!(config.address.take().is_some() && config.admin_socket.take().is_some());
        let default = AuthorityConfig::new("example.org".parse().unwrap(), "/x");
        assert_eq!(format!("{config:?}"), format!("{default:?}"));
    }
}
