//! What the root key of this server rests under. Whoever may change that could also read the keys: only the local socket may.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bonafide_keyring::SealName;
use bonafide_wire::admin::{
    AddSeal, ChangeSealsRequest, ListSealsRequest, Seal, SealProblem, SealsResponse, add_seal::Source,
    change_seals_request::Change,
};

use super::{Admin, Caller, Rights};
use crate::config::SealConfig;
use crate::refusal::Refusal;
use crate::seals::{Looked, Seals, Wanted};

/// Seals that one change removes.
const MAX_REMOVED: usize = 8;
/// Longest path.
const MAX_PATH: usize = 4096;

impl Admin {
    /// The seals of this server's keyring, each with what opens it.
    ///
    /// # Errors
    /// A caller who is not local, and a keyring that can't be read.
    pub async fn list_seals(&self, caller: &Caller, _: ListSealsRequest) -> Result<SealsResponse, Refusal> {
        let (seals, _) = self.keeper(caller)?;
        Ok(to_wire(seals.look().await?))
    }

    /// Adds a seal, removes some, or takes a new root key.
    ///
    /// # Errors
    /// A caller who is not local; no seal that opens the keyring; see [`bonafide_keyring::change_seals`].
    pub async fn change_seals(
        &self,
        caller: &Caller,
        request: ChangeSealsRequest,
    ) -> Result<SealsResponse, Refusal> {
        let (seals, actor) = self.keeper(caller)?;
        let change = request.change.ok_or_else(|| invalid("the request names no change"))?;
        let wanted = match change {
            Change::Add(add) => to_wanted(add)?,
            Change::Remove(remove) if remove.names.is_empty() || remove.names.len() > MAX_REMOVED => {
                return Err(invalid("name one to eight seals that are to be removed"));
            }
            Change::Remove(remove) => {
                let names = remove.names.iter().map(|name| name.parse());
                Wanted::Remove(names.collect::<Result<Vec<SealName>, _>>()?)
            }
            Change::Renew(_) => Wanted::Renew,
        };
        Ok(to_wire(seals.change(&actor, wanted).await?))
    }

    fn keeper(&self, caller: &Caller) -> Result<(&Arc<Seals>, String), Refusal> {
        let (Rights::All, Caller::Local { uid }) = (self.reader(caller)?.1, caller) else {
            return Err(Refusal::denied("admin.local-only", "seals are a matter of the server itself")
                .hint("run the command on the server, as root or as a member of its admin group"));
        };
        let seals = self.seals.as_ref().ok_or_else(|| {
            Refusal::unavailable("admin.no-keys", "this server has no keys of its own")
                .hint("ask a server of the trust domain")
        })?;
        Ok((seals, format!("local uid {uid}")))
    }
}

fn to_wanted(add: AddSeal) -> Result<Wanted, Refusal> {
    let seal = match add.source {
        Some(Source::KeyFile(path)) => SealConfig::KeyFileAt { path: to_path(path)? },
        Some(Source::PassphraseFile(path)) => SealConfig::Passphrase { file: to_path(path)? },
        Some(Source::Device(true)) => SealConfig::Pkcs11,
        Some(Source::Device(false)) | None => return Err(invalid("the seal has nothing to open it with")),
    };
    Ok(Wanted::Add { name: add.name.parse()?, seal })
}

fn to_path(path: String) -> Result<PathBuf, Refusal> {
    if path.len() > MAX_PATH || !Path::new(&path).is_absolute() {
        return Err(invalid("the path of a seal is absolute, and has at most 4096 bytes"));
    }
    Ok(path.into())
}

fn invalid(message: &'static str) -> Refusal {
    Refusal::invalid("seal.change", message).hint("see `bonafide authority seal --help`")
}

fn to_wire(looked: Looked) -> SealsResponse {
    let Looked { report, sources } = looked;
    let source = |place: usize| sources.get(place).cloned().unwrap_or_default();
    let seals = report.seals.into_iter().map(|seal| Seal {
        name: seal.name.to_string(),
        kind: seal.kind,
        opened_by: seal.opened_by.map(source).unwrap_or_default(),
    });
    let problems = report.problems.into_iter().map(|(place, error)| SealProblem {
        source: source(place),
        problem: Some(Refusal::from(error).to_problem()),
    });
    SealsResponse { seals: seals.collect(), problems: problems.collect() }
}
