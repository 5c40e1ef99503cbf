//! `authority init|run|seal`: one authority server.

mod seal;

use std::{
    fmt, fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use bonafide_authority::config::{AuthorityConfig, ConfigError, SealConfig};
use bonafide_identity::{DnsName, TrustDomain};

pub use self::seal::{AddArgs, SealCommand};
use crate::{Console, Failure, roles, socket::AUTHORITY_DATA};

/// Where the settings are unless told otherwise.
const CONFIG: &str = "/etc/bonafide/authority.toml";
const TEMPLATE: &str = include_str!("authority.toml");

/// One authority server.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AuthorityCommand {
    /// Make the data directory of a new authority, and a settings file with every default and what it means
    Init(Box<InitArgs>),
    /// Run the authority until it is told to end
    Run(Box<RunArgs>),
    /// Show and change what the root key of a running server rests under
    #[command(subcommand)]
    Seal(SealCommand),
}

/// `authority init`.
#[derive(Clone, Debug, clap::Args)]
pub struct InitArgs {
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
    /// Name of this server for clients of Vault's API, which look for one in its certificate; several times
    #[arg(long = "dns-name", value_name = "NAME")]
    dns_names: Vec<DnsName>,
    /// Seal the root key with the passphrase in this file [default: with a key file in the data directory]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Keep the store in this PostgreSQL database, which several servers may share [default: in a file in the data
    /// directory]
    #[arg(long, value_name = "postgres://USER@HOST/DATABASE", value_parser = store)]
    store: Option<Store>,
    /// PEM of the CA that the database's certificate is under: speak TLS to it, and to nobody else
    #[arg(long, value_name = "FILE", requires = "store")]
    store_ca: Option<PathBuf>,
    /// File with the database's password
    #[arg(long, value_name = "FILE", requires = "store")]
    store_password_file: Option<PathBuf>,
    /// Name of this server, unique in its trust domain [default: a]
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Make one more server: take keyring and seal from this data directory of a server on the same store
    #[arg(long, value_name = "DIR", requires = "store", requires = "server")]
    beside: Option<PathBuf>,
    /// Kind of the keys that sign certificates: ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096, ed25519
    /// [default: ec-p256]
    #[arg(long, value_name = "KIND")]
    ca_key: Option<String>,
    /// Kind of the keys that sign JWT-SVIDs: ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096 [default: ec-p256]
    #[arg(long, value_name = "KIND")]
    jwt_key: Option<String>,
    /// Keep keys and seal in a PKCS#11 device: the vendor's library
    #[arg(long, value_name = "FILE", requires = "pkcs11_token", requires = "pkcs11_pin_file")]
    pkcs11_module: Option<PathBuf>,
    /// Label of the device's token
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    pkcs11_token: Option<String>,
    /// The file with the PIN of the token's user
    #[arg(long, value_name = "FILE", requires = "pkcs11_module")]
    pkcs11_pin_file: Option<PathBuf>,
    /// What the library needs in its environment, such as SOFTHSM2_CONF=/etc/softhsm2.conf; several times
    #[arg(long, value_name = "NAME=VALUE", requires = "pkcs11_module")]
    pkcs11_env: Vec<String>,
    /// The library reaches its device over the network
    #[arg(long, requires = "pkcs11_module")]
    pkcs11_network: bool,
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
        AuthorityCommand::Init(arguments) => init(*arguments, console).await,
        AuthorityCommand::Run(arguments) => {
            let settings = arguments.settings()?;
            roles::init_logs("info")?;
            roles::serve_authority(settings, console).await
        }
        AuthorityCommand::Seal(command) => seal::run(command, console).await,
    }
}

async fn init(arguments: InitArgs, console: &Console) -> Result<(), Failure> {
    let InitArgs {
        trust_domain,
        config,
        data,
        listen,
        address,
        dns_names,
        passphrase_file,
        store,
        store_ca,
        store_password_file,
        server,
        beside,
        ca_key,
        jwt_key,
        pkcs11_module,
        pkcs11_token,
        pkcs11_pin_file,
        pkcs11_env,
        pkcs11_network,
    } = arguments;
    let data = std::path::absolute(&data).map_err(|source| Failure::read(&data, source))?;
    let text = fill(&trust_domain, &data, listen, address.as_deref(), passphrase_file.as_deref())?;
    let mut text = with_keys(text, ca_key.as_deref(), jwt_key.as_deref());
    if !dns_names.is_empty() {
        let names: Vec<_> = dns_names.iter().map(|name| quoted(name.as_str())).collect();
        text = text.replace("#dns_names = []", &format!("dns_names = [{}]", names.join(", ")));
    }
    if let Some(server) = server {
        text = text.replace("#server = \"a\"", &format!("server = {}", quoted(&server)));
    }
    if let Some(Store(url)) = store {
        let mut store = format!("[store]\nkind = \"postgres\"\nurl = {}", quoted(&url));
        for (name, file) in [("ca_file", store_ca), ("password_file", store_password_file)] {
            let Some(file) = file else { continue };
            let file = std::path::absolute(&file).map_err(|source| Failure::read(&file, source))?;
            store.push_str(&format!("\n{name} = {}", quoted(&file.display().to_string())));
        }
        text = text.replace("#[store]\n#kind = \"sqlite\"", &store);
    }
    if let (Some(module), Some(token), Some(pin)) = (pkcs11_module, pkcs11_token, pkcs11_pin_file) {
        let pin = std::path::absolute(&pin).map_err(|source| Failure::read(&pin, source))?;
        let sealed = passphrase_file.is_some();
        text = with_device(text, &module, &token, &pin, &pkcs11_env, pkcs11_network, sealed)?;
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

/// The template with kinds of keys; what is no kind is refused when it is read.
fn with_keys(text: String, ca: Option<&str>, jwt: Option<&str>) -> String {
    let keys: Vec<String> = [("ca", ca), ("jwt", jwt)]
        .into_iter()
        .filter_map(|(name, kind)| Some(format!("{name} = {}", quoted(kind?))))
        .collect();
    if keys.is_empty() {
        return text;
    }
    let section = format!("[keys]\n{}", keys.join("\n"));
    text.replace("#[keys]\n#ca = \"ec-p256\"\n#jwt = \"ec-p256\"", &section)
}

/// The template with a device, whose seal it gets unless it has another one.
fn with_device(
    text: String,
    module: &Path,
    token: &str,
    pin: &Path,
    environment: &[String],
    network: bool,
    sealed: bool,
) -> Result<String, Failure> {
    let mut section = format!(
        "\n[keys.pkcs11]\nmodule = {}\ntoken = {}\npin_file = {}\nnetwork = {network}\n",
        quoted(&module.display().to_string()),
        quoted(token),
        quoted(&pin.display().to_string())
    );
    if !environment.is_empty() {
        section.push_str("[keys.pkcs11.environment]\n");
    }
    for variable in environment {
        let (name, value) =
            variable.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                Failure::usage(format!("`{variable}` is no variable"), "write it as `NAME=VALUE`")
            })?;
        section.push_str(&format!("{} = {}\n", quoted(name), quoted(value)));
    }
    let text = if sealed {
        text
    } else {
        text.replace("#[seal]\n#kind = \"key-file\"", "[seal]\nkind = \"pkcs11\"")
    };
    Ok(text + &section)
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

    #[test]
    fn a_device_is_written_as_it_was_given() {
        let device = |environment: &[String], sealed| {
            let (module, pin) = (Path::new("/lib/\"odd\".so"), Path::new("/pin"));
            let text = with_keys(TEMPLATE.to_owned(), Some("ec-p384"), None);
            with_device(text, module, "our token", pin, environment, true, sealed)
        };
        let variables = ["SOFTHSM2_CONF=/a=b".to_owned()];
        let config = AuthorityConfig::parse(&filled(&device(&variables, false).unwrap())).unwrap();
        let pkcs11 = config.keys.pkcs11.unwrap();
        assert_eq!((pkcs11.token.as_str(), pkcs11.network), ("our token", true));
        assert_eq!(
            (pkcs11.module.as_path(), pkcs11.pin_file.as_path()),
            (Path::new("/lib/\"odd\".so"), Path::new("/pin"))
        );
        assert_eq!(pkcs11.environment["SOFTHSM2_CONF"], "/a=b");
        assert!(matches!(config.seal, SealConfig::Pkcs11));
        let config = AuthorityConfig::parse(&filled(&device(&[], true).unwrap())).unwrap();
        assert!(matches!(config.seal, SealConfig::KeyFile));
        assert!(device(&["=x".to_owned()], false).is_err());
    }

    #[test]
    fn kinds_of_keys_are_written_and_checked() {
        let kinds = |ca, jwt| AuthorityConfig::parse(&filled(&with_keys(TEMPLATE.to_owned(), ca, jwt)));
        let keys = kinds(Some("ec-p384"), Some("rsa-2048")).unwrap().keys;
        assert_eq!((keys.ca.as_str(), keys.jwt.as_str()), ("ec-p384", "rsa-2048"));
        assert_eq!(kinds(None, Some("ec-p384")).unwrap().keys.ca.as_str(), "ec-p256");
        assert_eq!(kinds(None, Some("ed25519")).unwrap_err().code(), "config.value");
        assert_eq!(kinds(Some("dsa"), None).unwrap_err().code(), "config.malformed");
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
        assert!(config.ledger.replica.take().is_some());
        let default = AuthorityConfig::new("example.org".parse().unwrap(), "/x");
        assert_eq!(format!("{config:?}"), format!("{default:?}"));
    }
}
