//! Where the demo plays: a temporary folder with copies of this program, and the processes that run there.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bonafide_crypto::random::{Random, SystemRandom};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User},
};
use tokio::process::{Child, Command};

use super::actor::Actor;
use crate::{Failure, text::hex};

/// Names of the programs; each is a path of its own.
pub(super) const PROGRAMS: [&str; 7] =
    ["authority", "agent", "second-agent", "server", "client", "job", "stranger"];

/// Who a program runs as, and what tells it apart.
#[derive(Clone, Debug)]
pub(super) struct Role {
    /// Its program.
    pub name: &'static str,
    /// What an entry asks for: `unix.uid:1` as root, else `unix.path:…`.
    pub selector: (String, String),
    /// In words.
    pub who: String,
    user: Option<(u32, u32)>,
}

/// The folder and its processes. Everything ends with [`Stage::clear`], or when it is dropped.
#[derive(Debug)]
pub(super) struct Stage {
    folder: PathBuf,
    as_root: bool,
    services: Vec<(&'static str, Child)>,
}

impl Stage {
    /// A new folder that every user may traverse, with copies of this program: the program itself may lie where other
    /// users cannot reach it.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub(super) fn set_up() -> Result<Self, Failure> {
        let random: &dyn Random = &SystemRandom;
        let folder = std::env::temp_dir().join(format!("bonafide-demo-{}", hex(&random.array::<6>())));
        let stage = Self { as_root: nix::unistd::geteuid().is_root(), services: Vec::new(), folder };
        stage.fill().map_err(|source| Failure::write(&stage.folder, source))?;
        Ok(stage)
    }

    fn fill(&self) -> io::Result<()> {
        let programs = self.path("bin");
        // Fails if somebody else made the folder first.
        fs::create_dir(&self.folder)?;
        fs::create_dir(&programs)?;
        for folder in [&self.folder, &programs] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        let mut copy: Option<PathBuf> = None;
        for name in PROGRAMS {
            let path = programs.join(name);
            match &copy {
                // A hard link is a path of its own, and costs nothing.
                Some(copy) => fs::hard_link(copy, &path)?,
                None => {
                    fs::copy(std::env::current_exe()?, &path)?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                    copy = Some(path);
                }
            }
        }
        Ok(())
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file that no other user can read.
    ///
    /// # Errors
    /// When it cannot be written, or is there already.
    pub(super) fn keep_secret(&self, name: &str, contents: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        written
            .and_then(|mut file| file.write_all(contents.as_bytes()))
            .map_err(|source| Failure::write(&path, source))?;
        Ok(path)
    }

    /// The socket of the agent.
    pub(super) fn agent_socket(&self) -> PathBuf {
        self.path("agent.sock")
    }

    /// The socket of the agent of the second node.
    pub(super) fn second_agent_socket(&self) -> PathBuf {
        self.path("second-agent.sock")
    }

    /// The socket of the authority.
    pub(super) fn admin_socket(&self) -> PathBuf {
        self.path("authority").join("admin.sock")
    }

    /// A role: as root, a user of its own; else a program path of its own.
    pub(super) fn role(&self, name: &'static str, user: &str, fallback_uid: u32) -> Role {
        if self.as_root {
            let found = User::from_name(user).ok().flatten();
            let (uid, gid) =
                found.map_or((fallback_uid, fallback_uid), |user| (user.uid.as_raw(), user.gid.as_raw()));
            return Role {
                name,
                selector: ("unix.uid".into(), uid.to_string()),
                who: format!("user {user} (uid {uid})"),
                user: Some((uid, gid)),
            };
        }
        let path = self.path("bin").join(name);
        Role {
            name,
            selector: ("unix.path".into(), path.display().to_string()),
            who: format!("program {}", path.display()),
            user: None,
        }
    }

    /// Starts a service that lives until it is stopped; what it writes goes to `<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start_service(&mut self, name: &'static str, arguments: &[&str]) -> Result<(), Failure> {
        let log = self.path(&format!("{name}.log"));
        let file = fs::File::create(&log).map_err(|source| Failure::write(&log, source))?;
        let also = file.try_clone().map_err(|source| Failure::write(&log, source))?;
        let mut command = self.command(name);
        command.args(arguments).stdin(Stdio::null()).stdout(file).stderr(also);
        let child = command.spawn().map_err(|source| not_started(name, &source))?;
        self.services.push((name, child));
        Ok(())
    }

    /// Runs a command that ends by itself.
    ///
    /// # Errors
    /// When it cannot be started, and when it fails.
    pub(super) async fn run_once(&self, name: &'static str, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = self.command(name);
        command.args(arguments).stdin(Stdio::null());
        let output = command.output().await.map_err(|source| not_started(name, &source))?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(observation_failed(format!("the {name} failed: {words}")))
    }

    /// Starts an actor on the first node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start_actor(&self, role: &Role, arguments: &[&str]) -> Result<Actor, Failure> {
        self.start_actor_at(&self.agent_socket(), role, arguments)
    }

    /// Starts an actor on the node whose agent serves here.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start_actor_at(
        &self,
        agent: &Path,
        role: &Role,
        arguments: &[&str],
    ) -> Result<Actor, Failure> {
        let mut command = self.command(role.name);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", agent.display()));
        if let Some((uid, gid)) = role.user {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().map_err(|source| not_started(role.name, &source))?;
        Ok(Actor::new(role.name, child))
    }

    /// Asks a service to end, as an operator would, and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time, or not of its own will.
    pub(super) async fn stop_service(&mut self, name: &'static str, within: Duration) -> Result<(), Failure> {
        let Some(index) = self.services.iter().position(|(service, _)| *service == name) else {
            return Ok(());
        };
        let (_, mut child) = self.services.remove(index);
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended already: then waiting tells.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = tokio::time::timeout(within, child.wait()).await.map_err(|_| Failure::TimedOut {
            what: format!("stopping the {name}"),
            limit: within.as_secs(),
        })?;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(observation_failed(format!("the {name} ended with {status}"))),
            Err(source) => Err(not_started(name, &source)),
        }
    }

    /// Fails when a service has ended by itself.
    ///
    /// # Errors
    /// Names the service.
    pub(super) fn check_services(&mut self) -> Result<(), Failure> {
        for (name, child) in &mut self.services {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(observation_failed(format!("the {name} ended with {status}")));
            }
        }
        Ok(())
    }

    /// The last lines that the services wrote.
    pub(super) fn last_words(&self) -> String {
        let mut words = String::new();
        for name in ["authority", "agent", "second-agent"] {
            if let Ok(log) = fs::read_to_string(self.path(&format!("{name}.log"))) {
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default();
                words.push_str(&format!("--- the {name}'s last lines\n{}\n", last.join("\n")));
            }
        }
        words
    }

    /// Ends every service and removes the folder.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub(super) async fn clear(mut self) -> Result<(), Failure> {
        for (_, mut child) in self.services.drain(..) {
            // Ended already: nothing to do.
            let _ = child.kill().await;
        }
        fs::remove_dir_all(&self.folder).map_err(|source| Failure::write(&self.folder, source))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.path("bin").join(name));
        // Nothing of this environment steers the play, and whatever happens to us ends it.
        command.env_clear().env(super::END_WITH_PARENT, "1").current_dir("/").kill_on_drop(true);
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (_, child) in &mut self.services {
            let _ = child.start_kill();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An observation that is not as it should be.
pub(super) fn observation_failed(message: impl Into<String>) -> Failure {
    Failure::of(
        "demo.observation-failed",
        message.into(),
        "this is a defect: please report it with the lines above",
    )
}

fn not_started(name: &str, source: &io::Error) -> Failure {
    Failure::of(
        "demo.not-started",
        format!("cannot run the {name}: {source}"),
        "the folder for temporary files must allow programs (TMPDIR names another)",
    )
}

/// Reads a socket path as the argument that it becomes.
pub(super) fn argument(path: &Path) -> String {
    path.display().to_string()
}
