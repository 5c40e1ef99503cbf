use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Where Debian puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Runs the server until the pipe to it closes, which it does however this process ends; then nothing is left.
const RUN: &str = r#"
bin=$1 home=$2
shift 2
"$bin/initdb" -D "$home/data" -U bonafide -A trust -E UTF8 --locale=C.UTF-8 --no-sync --no-instructions >"$home/log" 2>&1 || { cat "$home/log"; exit 1; }
"$bin/postgres" -D "$home/data" -k "$home" -c listen_addresses= -c max_connections=300 -c shared_buffers=32MB \
    -c wal_level=minimal -c max_wal_senders=0 -c autovacuum=off "$@" >>"$home/log" 2>&1 &
server=$!
until "$bin/pg_isready" -q -h "$home"; do
    kill -0 $server 2>/dev/null || { cat "$home/log"; exit 1; }
    sleep 0.05
done
echo ready
read -r _
kill -QUIT $server
wait $server
rm -rf "$home"
"#;

/// Makes a CA, and under it a certificate for the name and the address `$1`.
const CERTIFY: &str = r#"
set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca \
    -keyout ca.key -out ca.pem
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=database -CA ca.pem -CAkey ca.key \
    -addext "subjectAltName=DNS:$NAME,IP:$1" -addext basicConstraints=critical,CA:FALSE \
    -keyout server.key -out server.pem
chmod 600 server.key
"#;

/// A throw-away PostgreSQL server on a Unix socket. It ends with this value, or with the process.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    home: PathBuf,
    server: Child,
    made: AtomicU32,
}

/// A database of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    programs: PathBuf,
    home: PathBuf,
    name: String,
}

impl Postgres {
    /// The one server of this process, started when it is first asked for; `None`, and a word about it, if PostgreSQL is
    /// not installed.
    ///
    /// # Panics
    /// When it is installed and does not start, or when `BONAFIDE_TEST_POSTGRES=required` says that it must be there.
    pub fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
        SERVER.get_or_init(Self::start).as_ref()
    }

    /// A server of one's own.
    ///
    /// # Panics
    /// As [`Self::shared`].
    pub fn start() -> Option<Self> {
        Self::start_with(|_| Vec::new())
    }

    /// A server of one's own that speaks TLS, at an address of its own on this machine.
    ///
    /// # Panics
    /// As [`Self::shared`], and when `openssl` is missing.
    pub fn encrypted() -> Option<Encrypted> {
        static STARTED: AtomicU32 = AtomicU32::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.{}.{low}.{number}", 64 + high % 64);
        let postgres = Self::start_with(|home| {
            let mut certify = Command::new("sh");
            certify.args(["-c", CERTIFY, "sh", &address]).env("NAME", Encrypted::NAME).current_dir(home);
            let certified = certify.output().expect("a shell");
            assert!(certified.status.success(), "{}", String::from_utf8_lossy(&certified.stderr));
            let file = |name: &str| home.join(name).display().to_string();
            let settings = [
                format!("listen_addresses={address}"),
                "ssl=on".to_owned(),
                format!("ssl_cert_file={}", file("server.pem")),
                format!("ssl_key_file={}", file("server.key")),
            ];
            settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect()
        })?;
        Some(Encrypted { ca_file: postgres.home.join("ca.pem"), postgres, address })
    }

    /// With more arguments, once its directory is there.
    fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        let Some(programs) = programs() else {
            let required =
                std::env::var_os("BONAFIDE_TEST_POSTGRES").is_some_and(|value| value == "required");
            assert!(!required, "PostgreSQL is not installed below {VERSIONS}");
            eprintln!("skipped: PostgreSQL is not installed below {VERSIONS}");
            return None;
        };
        let home = tempfile::Builder::new().prefix("bonafide-pg-").tempdir().expect("a directory").keep();
        let arguments = arguments(&home);
        let mut command = Command::new("sh");
        command.args(["-c", RUN, "sh"]).arg(&programs).arg(&home).args(arguments).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        // The server refuses to run as root.
        if fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0) {
            let (user, group) = postgres_user().expect("the user `postgres` of the Debian package");
            let files = fs::read_dir(&home).expect("it was made").map(|file| file.expect("a file").path());
            for path in files.chain([home.clone()]) {
                chown(path, Some(user), Some(group)).expect("root may do that");
            }
            command.uid(user).gid(group);
        }
        let mut server = command.spawn().expect("a shell");
        let mut said = String::new();
        let mut output = BufReader::new(server.stdout.take().expect("it is piped"));
        while said != "ready\n" {
            said.clear();
            let read = output.read_line(&mut said).expect("text");
            assert!(read > 0, "PostgreSQL does not start");
            if said != "ready\n" {
                eprint!("{said}");
            }
        }
        Some(Self { programs, home, server, made: AtomicU32::new(0) })
    }

    /// A new database.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn database(&self) -> Database {
        let name = format!("test{}", self.made.fetch_add(1, Ordering::Relaxed));
        let database = Database { programs: self.programs.clone(), home: self.home.clone(), name };
        Database { name: "postgres".to_owned(), ..database.clone() }
            .sql(&format!("CREATE DATABASE {}", database.name));
        database
    }
}

/// A server that speaks TLS.
#[derive(Debug)]
pub struct Encrypted {
    postgres: Postgres,
    /// PEM of the CA that its certificate is under.
    pub ca_file: PathBuf,
    address: String,
}

impl Encrypted {
    /// The name in its certificate.
    pub const NAME: &str = "database.test";

    /// A new database.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn database(&self) -> Database {
        self.postgres.database()
    }

    /// Where a database of it is, for who believes that the server has this name.
    pub fn url(&self, database: &Database, name: &str) -> String {
        let Self { address, .. } = self;
        format!("host={name} hostaddr={address} user=bonafide dbname={} sslmode=require", database.name)
    }
}

impl Postgres {
    /// The database of this server that an address ends with.
    pub fn of(&self, address: &str) -> Database {
        let name = address.rsplit('/').next().unwrap_or_default().to_owned();
        Database { programs: self.programs.clone(), home: self.home.clone(), name }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        // It removes what it wrote before it ends.
        let _ended = self.server.wait();
    }
}

impl Database {
    /// Where it is, for a program.
    pub fn url(&self) -> String {
        format!("postgres://bonafide@/{}?host={}", self.name, self.home.display())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the database answers, a line for each row.
    ///
    /// # Panics
    /// When it refuses.
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).expect(statements)
    }

    /// What the database answers, or why it refuses.
    ///
    /// # Errors
    /// In PostgreSQL's words.
    ///
    /// # Panics
    /// When `psql` can't be run.
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        let output = Command::new(self.programs.join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "bonafide", "-d", &self.name])
            .arg("-h")
            .arg(&self.home)
            .args(["-c", statements])
            .output()
            .expect("psql runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Another database with the same content. Nobody may be connected to this one.
    pub fn copy(&self, name: &str) -> Self {
        let copy = Self { name: format!("{}_{name}", self.name), ..self.clone() };
        self.maintenance().sql(&format!("CREATE DATABASE {} TEMPLATE {}", copy.name, self.name));
        copy
    }

    /// Puts the content of `copy` in place of this one's: what a restored backup looks like. Cuts every connection.
    pub fn put_back(&self, copy: &Self) {
        self.cut_connections();
        copy.cut_connections();
        let maintenance = self.maintenance();
        maintenance.sql(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        maintenance.sql(&format!("CREATE DATABASE {} TEMPLATE {}", self.name, copy.name));
    }

    /// Ends every session of this database.
    pub fn cut_connections(&self) {
        let name = &self.name;
        self.maintenance().sql(&format!(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = '{name}'"
        ));
    }

    fn maintenance(&self) -> Self {
        Self { name: "postgres".to_owned(), ..self.clone() }
    }
}

/// Of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(Path::new(VERSIONS)).ok()?;
    let found = versions.flatten().filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let programs = version.path().join("bin");
        programs.join("postgres").exists().then_some((number, programs))
    });
    found.max().map(|(_, programs)| programs)
}

fn postgres_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let user = users.lines().find_map(|line| line.strip_prefix("postgres:"))?;
    let mut fields = user.split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
