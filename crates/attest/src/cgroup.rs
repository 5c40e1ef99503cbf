//! What `/proc/<pid>/cgroup` says of a process: its systemd unit, and its container.
//!
//! A process can't write there; whoever moves a process between control groups is root, or a user below a subtree that
//! root has delegated to him. So only those parts of a path count that lie above the first delegation: what stands below
//! a unit, `user@1000.service` above all, is in somebody else's hand, whatever it looks like.
//!
//! The paths are those that the reader's cgroup namespace shows. A reader that isn't in the initial one must not believe
//! them ([`is_initial_namespace`]).

use std::fmt;

/// Longest text that is looked at.
pub const MAX_TEXT: usize = 64 * 1024;
/// Most hierarchies: Linux has a dozen controllers.
const MAX_HIERARCHIES: usize = 64;
/// Deepest path.
const MAX_DEPTH: usize = 64;
/// Hexadecimal digits of a container's ID.
const ID_LENGTH: usize = 64;
/// Services of the system that are root's, and that make containers below themselves.
const RUNTIME_SERVICES: &[&str] = &[
    "containerd.service",
    "crio.service",
    "docker.service",
    "k3s-agent.service",
    "k3s.service",
    "rke2-agent.service",
    "rke2-server.service",
];

/// What runtimes without systemd put at the top.
const FOLDERS: &[&str] = &["crio", "docker", "kubepods", "libpod_parent"];
/// Namespaces of containerd.
const NAMESPACES: &[&str] = &["default", "k8s.io", "moby", "nerdctl"];

/// The control groups of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    unified: bool,
    systemd: bool,
    /// Components, without empty ones.
    path: Vec<String>,
}

/// Who runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// containerd, by its own clients or as a runtime of Kubernetes.
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker.
    Docker,
    /// Some runtime of Kubernetes: the path says no more.
    Kubernetes,
    /// Podman.
    Podman,
}

/// The container that a process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Who runs it.
    pub runtime: Runtime,
    /// 64 hexadecimal digits in lower case. Of a rootless container, what its user calls it.
    pub id: String,
    /// The user whose container it is, if it isn't root's: all that is known of it is this user's word.
    pub rootless: Option<u32>,
}

/// Why control groups say nothing that may be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CgroupError {
    /// Not what the kernel writes, or more of it than it writes.
    #[error("the control groups of the process make no sense")]
    Malformed,
    /// The process is outside of what the reader can see.
    #[error("the process is in a control group outside of the reader's namespace")]
    Outside,
    /// Two containers in one path, or in two hierarchies.
    #[error("the control groups of the process name more than one container")]
    Ambiguous,
    /// A container's name without a whole ID.
    #[error("a control group is named like a container, without an ID of 64 hexadecimal digits")]
    Id,
}

impl CgroupError {
    /// Stable code of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "cgroup.malformed",
            Self::Outside => "cgroup.outside",
            Self::Ambiguous => "cgroup.ambiguous",
            Self::Id => "cgroup.container-id",
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed => "report this, with `/proc/<pid>/cgroup`",
            Self::Outside => "run the agent in the host's cgroup namespace",
            Self::Ambiguous => {
                "a container within a container can't be told apart from outside: run an agent inside"
            }
            Self::Id => "name containers as their runtime does, by the whole ID",
        }
    }
}

impl Runtime {
    /// Its name in selectors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::Docker => "docker",
            Self::Kubernetes => "kubernetes",
            Self::Podman => "podman",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a link of `/proc/<pid>/ns/cgroup` names the namespace that the machine began with
/// (`PROC_CGROUP_INIT_INO` of the kernel).
#[must_use]
pub fn is_initial_namespace(link: &[u8]) -> bool {
    link == b"cgroup:[4026531835]"
}

impl Cgroups {
    /// Parses `/proc/<pid>/cgroup` (cgroups(7)): `hierarchy:controllers:path` on each line.
    ///
    /// # Errors
    /// [`CgroupError::Malformed`], and [`CgroupError::Outside`] for a path that climbs.
    pub fn parse(text: &[u8]) -> Result<Self, CgroupError> {
        if text.len() > MAX_TEXT {
            return Err(CgroupError::Malformed);
        }
        let text = std::str::from_utf8(text).map_err(|_| CgroupError::Malformed)?;
        let mut hierarchies = Vec::new();
        // The kernel refuses names with line breaks (`cgroup_mkdir`).
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            if hierarchies.len() == MAX_HIERARCHIES {
                return Err(CgroupError::Malformed);
            }
            let hierarchy = Hierarchy::parse(line)?;
            // Each controller is in one hierarchy.
            if hierarchies.iter().any(|other: &(Hierarchy, &str)| other.1 == controllers(line)) {
                return Err(CgroupError::Malformed);
            }
            hierarchies.push((hierarchy, controllers(line)));
        }
        Ok(Self { hierarchies: hierarchies.into_iter().map(|(hierarchy, _)| hierarchy).collect() })
    }

    /// The system's unit that the process belongs to; `None` if it belongs to none.
    ///
    /// That is the first unit on the path, below slices alone. A user's own `foo.service` lies below `user@<uid>.service`,
    /// and is not told apart from it: its user names and fills it as he likes. Only root moves a process out of a unit.
    ///
    /// # Errors
    /// [`CgroupError::Malformed`] if two hierarchies that systemd may keep say different things.
    pub fn systemd_unit(&self) -> Result<Option<String>, CgroupError> {
        let named = self.hierarchies.iter().find(|hierarchy| hierarchy.systemd).and_then(Hierarchy::unit);
        let unified = self.hierarchies.iter().find(|hierarchy| hierarchy.unified).and_then(Hierarchy::unit);
        match (named, unified) {
            // Where systemd keeps a hierarchy of its own, the unified one is empty, or says the same.
            (Some(named), Some(unified)) if named != unified => Err(CgroupError::Malformed),
            (named, unified) => Ok(named.or(unified)),
        }
    }

    /// The container that the process is in; `None` if it is in none.
    ///
    /// # Errors
    /// What is ambiguous or incomplete is never guessed.
    pub fn container(&self) -> Result<Option<Container>, CgroupError> {
        let mut found: Option<Container> = None;
        for hierarchy in &self.hierarchies {
            let Some(container) = hierarchy.container()? else { continue };
            match &mut found {
                None => found = Some(container),
                Some(known) if known.id != container.id || known.rootless != container.rootless => {
                    return Err(CgroupError::Ambiguous);
                }
                // Some hierarchies say more than others.
                Some(known) if known.runtime == Runtime::Kubernetes => known.runtime = container.runtime,
                Some(known)
                    if container.runtime != Runtime::Kubernetes && known.runtime != container.runtime =>
                {
                    return Err(CgroupError::Ambiguous);
                }
                Some(_) => {}
            }
        }
        Ok(found)
    }
}

fn controllers(line: &str) -> &str {
    line.split(':').nth(1).unwrap_or_default()
}

impl Hierarchy {
    fn parse(line: &str) -> Result<Self, CgroupError> {
        let malformed = || CgroupError::Malformed;
        let (number, rest) = line.split_once(':').ok_or_else(malformed)?;
        let (controllers, path) = rest.split_once(':').ok_or_else(malformed)?;
        if number.is_empty() || number.len() > 10 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let unified = number == "0";
        if unified != controllers.is_empty() {
            return Err(malformed());
        }
        // The kernel marks a control group that was removed; the process is on its way out of it, or a zombie.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let path = path.strip_prefix('/').ok_or_else(malformed)?;
        let components: Vec<String> = if path.is_empty() {
            Vec::new()
        } else {
            path.split('/').take(MAX_DEPTH + 1).map(str::to_owned).collect()
        };
        if components.len() > MAX_DEPTH {
            return Err(malformed());
        }
        match components.iter().find(|name| name.is_empty() || matches!(name.as_str(), "." | "..")) {
            Some(name) if name == ".." => return Err(CgroupError::Outside),
            Some(_) => return Err(malformed()),
            None => {}
        }
        let systemd = controllers == "name=systemd";
        Ok(Self { unified, systemd, path: components })
    }

    /// As systemd's own `cg_path_get_unit`: below slices, the first component, if it is a unit's name.
    fn unit(&self) -> Option<String> {
        let first = self.path.iter().find(|name| !is_slice(name))?;
        let name = unescaped(first);
        is_unit(name).then(|| name.to_owned())
    }

    fn container(&self) -> Result<Option<Container>, CgroupError> {
        let mut place = Place::System;
        let mut found: Option<Container> = None;
        // Names that stand before a bare ID, and say what it is.
        let mut parent = "";
        for (depth, name) in self.path.iter().enumerate() {
            if let Some(named) = self.named(depth, name, parent, found.is_some(), place)? {
                match &found {
                    Some(known) if known.id != named.id => return Err(CgroupError::Ambiguous),
                    Some(_) => {}
                    None => found = Some(named),
                }
            }
            if found.is_none() {
                place = place.below(depth, parent, name, &self.path);
            }
            parent = name;
        }
        Ok(found)
    }

    /// The container that a component names.
    fn named(
        &self,
        depth: usize,
        name: &str,
        parent: &str,
        within: bool,
        place: Place,
    ) -> Result<Option<Container>, CgroupError> {
        // What units other than those of runtimes do with their subtrees is their affair, and means nothing.
        if place == Place::Delegated && !within {
            return Ok(None);
        }
        let (runtime, id) = match parts(name) {
            Parts::Nothing => return Ok(None),
            Parts::Of(runtime, id) => (runtime, id),
            Parts::Bare(id) => match bare(depth, parent, &self.path) {
                Some(runtime) => (runtime, id),
                // Below a container, or of a maker that is not known: an ID that is nobody's could be anybody's.
                None if within => (Runtime::Kubernetes, id),
                None => return Ok(None),
            },
        };
        if !is_id(id) {
            // Within a container, somebody else chooses names: they neither help nor hinder, unless they are whole.
            return if within { Ok(None) } else { Err(CgroupError::Id) };
        }
        let rootless = match place {
            Place::User(uid) => Some(uid),
            Place::System | Place::Delegated | Place::Runtime => None,
        };
        Ok(Some(Container { runtime, id: id.to_owned(), rootless }))
    }
}

/// In whose hand a part of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Root's: nothing but slices and the folders of runtimes so far.
    System,
    /// Below a service of root that makes containers.
    Runtime,
    /// Below the service manager of this user.
    User(u32),
    /// Below any other unit.
    Delegated,
}

impl Place {
    fn below(self, depth: usize, parent: &str, name: &str, path: &[String]) -> Self {
        if self != Self::System || is_slice(name) || is_folder(depth, parent, name, path) {
            return self;
        }
        if RUNTIME_SERVICES.contains(&name) && parent == "system.slice" {
            return Self::Runtime;
        }
        let user = name.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"));
        match user.and_then(decimal) {
            Some(uid) if parent == format!("user-{uid}.slice") => Self::User(uid),
            _ => Self::Delegated,
        }
    }
}

/// Whether a runtime without systemd makes such a folder, where only root can.
fn is_folder(depth: usize, parent: &str, name: &str, path: &[String]) -> bool {
    let first = path.first().map_or("", String::as_str);
    match depth {
        0 => FOLDERS.contains(&name) || NAMESPACES.contains(&name),
        1 | 2 if first == "kubepods" => {
            matches!(name, "besteffort" | "burstable" | "guaranteed") || name.starts_with("pod")
        }
        // A pod.
        1 => parent == "libpod_parent" && is_id(name),
        _ => false,
    }
}

enum Parts<'a> {
    Nothing,
    /// A name that one runtime alone gives.
    Of(Runtime, &'a str),
    /// An ID and nothing else.
    Bare(&'a str),
}

/// Takes apart what runtimes call their containers' control groups.
fn parts(name: &str) -> Parts<'_> {
    // runc with a systemd path and without systemd: `<slice>:<prefix>:<id>`.
    if let Some((slice, rest)) = name.split_once(':') {
        let Some((prefix, id)) = rest.split_once(':').filter(|_| is_slice(slice)) else {
            return Parts::Nothing;
        };
        return runtime_of(prefix).map_or(Parts::Nothing, |runtime| Parts::Of(runtime, id));
    }
    if is_slice(name) {
        return Parts::Nothing;
    }
    let (stem, is_scope) = name.strip_suffix(".scope").map_or((name, false), |stem| (stem, true));
    if !is_scope && looks_like_id(name) {
        return Parts::Bare(name);
    }
    // The monitor beside a container is none of it.
    if stem.starts_with("libpod-conmon-") || stem.starts_with("crio-conmon-") {
        return Parts::Nothing;
    }
    let Some((prefix, id)) = stem.rsplit_once('-') else { return Parts::Nothing };
    match runtime_of(prefix) {
        // Without systemd, these two keep the prefix.
        Some(runtime @ (Runtime::Crio | Runtime::Podman)) => Parts::Of(runtime, id),
        Some(runtime) if is_scope => Parts::Of(runtime, id),
        _ => Parts::Nothing,
    }
}

fn runtime_of(prefix: &str) -> Option<Runtime> {
    Some(match prefix {
        "docker" => Runtime::Docker,
        "libpod" => Runtime::Podman,
        "cri-containerd" | "containerd" | "nerdctl" => Runtime::Containerd,
        "crio" => Runtime::Crio,
        _ => return None,
    })
}

/// Who calls a container's control group by the bare ID, at this place.
fn bare(depth: usize, parent: &str, path: &[String]) -> Option<Runtime> {
    let first = path.first().map(String::as_str)?;
    if first == "kubepods" {
        // `kubepods[/<class>]/pod<uid>/<id>`
        return parent.starts_with("pod").then_some(Runtime::Kubernetes);
    }
    if parent == "docker" && depth == 1 {
        return Some(Runtime::Docker);
    }
    (depth == 1 && NAMESPACES.contains(&parent)).then_some(Runtime::Containerd)
}

/// Long enough to be meant as an ID, whole or not.
fn looks_like_id(name: &str) -> bool {
    name.len() >= ID_LENGTH / 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some_and(is_unit_stem)
}

fn is_unit(name: &str) -> bool {
    let kinds = [".service", ".scope", ".socket", ".mount", ".swap"];
    kinds.iter().any(|kind| name.strip_suffix(kind).is_some_and(is_unit_stem))
}

/// systemd.unit(5): "letters, digits, and `:-_.\`", and the `@` of templates.
fn is_unit_stem(stem: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
    !stem.is_empty() && stem.len() < 256 && !stem.starts_with('.') && stem.bytes().all(allowed)
}

/// systemd puts a `_` before names that the kernel would take for files of its own (`cg_escape`).
fn unescaped(name: &str) -> &str {
    name.strip_prefix('_').unwrap_or(name)
}

fn decimal(text: &str) -> Option<u32> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
