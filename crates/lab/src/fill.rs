//! `memory-100k`, `memory-1m`, `start-100k`: what registrations cost an authority that has very many.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use bonafide_attest::{
    Selector, SelectorSet,
    registration::{Kind, Registration},
};
use bonafide_authority::{
    Authority,
    records::{Object, RecordChange},
    registry::Registry,
};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::{
    SpiffeId, TrustDomain,
    time::{SystemClock, UnixTime},
};
use bonafide_keyring::{KeyFileSeal, Keyring};
use bonafide_store::SqliteStore;

use crate::{
    Options,
    authority::{self, AuthorityProcess, SITE, TRUST_DOMAIN},
    figure::Figure,
    pairs::median,
};

/// Entries that are written at once.
const AT_ONCE: usize = 1000;
const STARTS: usize = 5;
/// What was needed only for the start is given back when a thread that needed it works again, which is when the store is
/// looked at next.
const SETTLE: Duration = Duration::from_secs(12);

/// Data directories of authorities, by how many entries they have. Filling one takes a while.
#[derive(Debug, Default)]
pub(crate) struct Filled(BTreeMap<usize, tempfile::TempDir>);

impl Filled {
    /// Memory of the authority's process, above one without entries.
    pub(crate) async fn memory_figure(
        &mut self,
        options: &Options,
        name: &'static str,
        entries: usize,
        target: f64,
    ) -> Result<Figure> {
        let (empty, _) = self.memory(options, 0).await?;
        let (full, peak) = self.memory(options, entries).await?;
        let value = (full - empty) / 1e6;
        let each = (full - empty) / entries as f64;
        Ok(Figure {
            name,
            value,
            unit: "MB",
            floor: None,
            ratio: None,
            peer_ratio: None,
            target: Some(target),
            what: format!(
                "memory of {entries} entries, {each:.0} bytes each; the process has {:.0} MB, at its start {:.0} MB",
                full / 1e6,
                peak / 1e6
            ),
        })
    }

    /// From the start of the process until it serves. It verifies and reads everything before.
    pub(crate) async fn start_figure(&mut self, options: &Options) -> Result<Figure> {
        let (mut latencies, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            let authority = AuthorityProcess::serve(&self.directory(options, 100_000)?).await?;
            latencies.push(authority.took().as_secs_f64());
            cpu.push(authority.process()?.cpu()?.as_secs_f64());
        }
        Ok(Figure {
            name: "start-100k",
            value: median(latencies),
            unit: "s",
            floor: None,
            ratio: None,
            peer_ratio: None,
            target: Some(0.5),
            what: format!(
                "authority with 100000 entries started → it serves, {:.2} s of CPU time; median of {STARTS}",
                median(cpu)
            ),
        })
    }

    /// Bytes in memory, now and at most.
    async fn memory(&mut self, options: &Options, entries: usize) -> Result<(f64, f64)> {
        let authority = AuthorityProcess::serve(&self.directory(options, entries)?).await?;
        tokio::time::sleep(SETTLE).await;
        let usage = authority.process()?.usage()?;
        Ok((usage.memory as f64, usage.peak_memory as f64))
    }

    fn directory(&mut self, options: &Options, entries: usize) -> Result<PathBuf> {
        use std::collections::btree_map::Entry;
        let directory = match self.0.entry(entries) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => {
                let directory = options.directory()?;
                // In another process: what it takes to write them is not to be measured.
                let filled = Command::new(std::env::current_exe()?)
                    .arg("--fill-authority")
                    .arg(directory.path().join("authority"))
                    .arg(entries.to_string())
                    .status()?;
                if !filled.success() {
                    bail!("the store was not filled");
                }
                place.insert(directory)
            }
        };
        Ok(directory.path().join("authority"))
    }
}

/// What the other process does: makes the data directory of an authority with so many entries.
pub(crate) async fn fill(directory: &Path, entries: usize) -> Result<()> {
    let config = authority::config(directory)?;
    Authority::init(&config, Arc::new(SystemClock), &SystemRandom).await?;
    let keyring = Keyring::open(directory.join("keyring"), &KeyFileSeal::open(directory.join("seal.key"))?)?;
    let store = SqliteStore::open_existing(directory.join("store.sqlite"), keyring.mac_key("store"))?;
    let trust_domain: TrustDomain = TRUST_DOMAIN.parse()?;
    let registry = Registry::open(Arc::new(store), trust_domain.clone(), Arc::new(SystemClock)).await?;
    for start in (0..entries).step_by(AT_ONCE) {
        let registrations = (start..entries.min(start + AT_ONCE))
            .map(|number| Ok(Arc::new(registration(number, entries, &trust_domain)?)))
            .collect::<Result<Vec<_>>>()?;
        let puts = move |_: &_| {
            let put =
                |registration: &Arc<_>| RecordChange::Put(Object::Registration(Arc::clone(registration)));
            Ok(registrations.iter().map(put).collect())
        };
        registry.write(puts).await.map_err(|refusal| anyhow::anyhow!(refusal.to_string()))?;
    }
    Ok(())
}

/// Namespaces of very different size, accounts that some share, a few containers, and for every third one a DNS name.
fn registration(number: usize, all: usize, trust_domain: &TrustDomain) -> Result<Registration> {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17;
    // Squaring a share makes the first namespaces crowded and leaves the last ones nearly empty.
    let share = (mixed % 10_007) as f64 / 10_007.0;
    let namespace = (share * share * 4000.0) as usize;
    let selectors = [
        ("k8s.ns", format!("team-{namespace}")),
        ("k8s.sa", format!("service-{}", mixed % all.div_ceil(7).max(1))),
        ("k8s.container", format!("container-{}", mixed % 53)),
    ];
    let selectors =
        selectors.iter().map(|(key, value)| Selector::new(key, value)).collect::<Result<Vec<_>, _>>()?;
    Ok(Registration {
        id: format!("shop-{number}"),
        kind: Kind::Entry(SpiffeId::new(
            trust_domain,
            &format!("/lab/ns/team-{namespace}/sa/service-{number}"),
        )?),
        site: SITE.to_owned(),
        parent: None,
        selectors: SelectorSet::collect(selectors)?,
        x509_ttl: None,
        jwt_ttl: None,
        dns_names: if number.is_multiple_of(3) {
            vec![format!("service-{number}.lab.internal").parse()?]
        } else {
            Vec::new()
        },
        admin: Vec::new(),
        hint: String::new(),
        labels: BTreeMap::new(),
        management_labels: BTreeMap::new(),
        expires_at: None,
        revision: 0,
        created_at: UnixTime::from_secs(1_790_000_000),
    })
}
