use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bonafide_identity::{BundleMap, Clock, JwtSvid, Revocations, SpiffeId, UnixTime, jwt};
use bonafide_tls::{Trust, Trusted};
use bonafide_wire::workload::{JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest};
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use crate::{
    Endpoint, Error, Options, Pick,
    backoff::Backoff,
    endpoint::WorkloadClient,
    error::Ended,
    messages::jwt_bundles,
    revocations::{Follower, Watch},
    task::Task,
};

/// How many audiences are remembered.
const MAX_CACHED: usize = 256;
const FETCH_TIME: Duration = Duration::from_secs(10);

/// JWT-SVIDs of this process, and the keys by which those of others are validated without asking anybody.
///
/// A JWT-SVID is a bearer token: who reads it can use it until it expires. Prefer mutual TLS where it reaches.
#[derive(Clone, Debug)]
pub struct JwtSource {
    shared: Arc<Shared>,
    _task: Arc<Task>,
    _watch: Arc<Watch>,
}

#[derive(Debug)]
struct Shared {
    client: WorkloadClient,
    bundles: Trust,
    cache: Mutex<BTreeMap<Vec<String>, Cached>>,
    pick: Pick,
    clock: Arc<dyn Clock>,
}

#[derive(Clone, Debug)]
struct Cached {
    svid: Arc<JwtSvid>,
    fetched: UnixTime,
}

impl Cached {
    /// Until half of its life is over.
    fn is_fresh(&self, now: UnixTime) -> bool {
        let life = self.svid.expires_at().since(self.fetched);
        now < self.fetched.saturating_add(life / 2)
    }

    fn is_valid(&self, now: UnixTime) -> bool {
        now < self.svid.expires_at()
    }
}

impl JwtSource {
    /// Connects to the agent that the environment names, and waits for the first bundles.
    ///
    /// # Errors
    /// [`Error::Unreachable`] without an agent, [`Error::Refused`] with the agent's reason if it grants no identity.
    pub async fn connect() -> Result<Self, Error> {
        Self::connect_with(Options::default()).await
    }

    /// Connects to the agent at `endpoint`, as `unix:///run/bonafide/agent.sock`.
    ///
    /// # Errors
    /// As [`JwtSource::connect`], and [`Error::Endpoint`].
    pub async fn connect_to(endpoint: &str) -> Result<Self, Error> {
        Self::connect_with(Options { endpoint: Some(endpoint.parse()?), ..Options::default() }).await
    }

    /// Connects as `options` say.
    ///
    /// # Errors
    /// As [`JwtSource::connect`].
    pub async fn connect_with(options: Options) -> Result<Self, Error> {
        let endpoint = match options.endpoint {
            Some(endpoint) => endpoint,
            None => Endpoint::from_environment()?,
        };
        let mut client = endpoint.client();
        let mut backoff = Backoff::new(Arc::clone(&options.random));
        let deadline = Instant::now() + options.patience;
        let (stream, bundles) = loop {
            match first(&mut client, deadline).await {
                Ok(first) => break first,
                Err(Ended { error, .. }) => {
                    let pause = backoff.next();
                    if matches!(error, Error::Answer(_)) || Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
            }
        };
        let shared = Arc::new(Shared {
            client: client.clone(),
            bundles: Arc::new(Trusted::new(bundles)),
            cache: Mutex::default(),
            pick: options.pick,
            clock: options.clock,
        });
        backoff.reset();
        let watch = Watch::begin(&endpoint, Arc::clone(&shared), options.random, deadline).await;
        let task = Task::spawn(follow(Arc::clone(&shared), client, stream, backoff));
        Ok(Self { shared, _task: Arc::new(task), _watch: Arc::new(watch) })
    }

    /// A JWT-SVID for these audiences. The same one is given out until half of its life is over; while the agent is away,
    /// until it expires.
    ///
    /// # Errors
    /// [`Error::Refused`] with the agent's reason, [`Error::Unreachable`] without an agent.
    pub async fn fetch(&self, audience: &[&str]) -> Result<Arc<JwtSvid>, Error> {
        let mut key: Vec<String> = audience.iter().map(|&each| each.to_owned()).collect();
        key.sort();
        key.dedup();
        let cached = self.shared.cache(|cache| cache.get(&key).cloned());
        let now = self.shared.clock.now();
        if let Some(fresh) = cached.as_ref().filter(|cached| cached.is_fresh(now)) {
            return Ok(Arc::clone(&fresh.svid));
        }
        match self.shared.fetch(&key).await {
            Ok(svid) => {
                let svid = Arc::new(svid);
                let entry = Cached { svid: Arc::clone(&svid), fetched: now };
                self.shared.cache(|cache| {
                    cache.retain(|_, cached| cached.is_valid(now));
                    if cache.len() < MAX_CACHED || cache.contains_key(&key) {
                        cache.insert(key, entry);
                    }
                });
                Ok(svid)
            }
            Err(error @ Error::Unreachable(_)) => {
                cached.filter(|cached| cached.is_valid(now)).map(|cached| cached.svid).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Validates a token that somebody presented, by the bundle of its subject's trust domain, without asking the agent.
    /// One that was revoked is refused, as far as the agent has told.
    ///
    /// # Errors
    /// [`Error::Jwt`] says what is wrong with it.
    pub fn validate(&self, token: &str, audience: &str) -> Result<JwtSvid, Error> {
        Ok(jwt::verify(token, &self.shared.bundles.load(), audience, self.shared.clock.now())?)
    }

    /// The JWT keys of this moment, of one's own trust domain and those it federates with.
    pub fn bundles(&self) -> Arc<BundleMap> {
        self.shared.bundles.load_full()
    }
}

impl Shared {
    fn cache<T>(&self, work: impl FnOnce(&mut BTreeMap<Vec<String>, Cached>) -> T) -> T {
        work(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts new bundles in the place of those before; what is revoked stays so.
    fn put(&self, bundles: &BundleMap) {
        self.bundles.update(|before| Arc::new(bundles.clone().with_revocations_of(before)));
    }

    /// Drops everything if the agent has withdrawn it.
    fn end(&self, ended: &Ended) {
        tracing::warn!(code = ended.error.code(), error = %ended.error, "the stream of JWT bundles broke");
        if ended.withdrawn {
            self.put(&BundleMap::new());
            self.cache(BTreeMap::clear);
        }
    }

    async fn fetch(&self, audience: &[String]) -> Result<JwtSvid, Error> {
        let wanted: Option<&SpiffeId> = match &self.pick {
            Pick::Id(id) => Some(id),
            Pick::First | Pick::Hint(_) => None,
        };
        let request = JwtsvidRequest {
            audience: audience.to_vec(),
            spiffe_id: wanted.map(ToString::to_string).unwrap_or_default(),
        };
        let mut client = self.client.clone();
        let response = timeout(FETCH_TIME, client.fetch_jwtsvid(request))
            .await
            .map_err(|_| Error::Unreachable("it does not answer in time".to_owned()))?
            .map_err(|status| Error::of_status(&status))?
            .into_inner();
        let picked = response.svids.iter().find(|svid| match &self.pick {
            Pick::First => true,
            Pick::Hint(hint) => svid.hint == *hint,
            Pick::Id(id) => svid.spiffe_id == id.as_str(),
        });
        let message = picked.ok_or(Error::NoSvid("the agent grants none that fits"))?;
        let svid = JwtSvid::from_trusted_source(&message.svid, Some(message.hint.clone()))?;
        if svid.id().as_str() != message.spiffe_id
            || !audience.iter().all(|each| svid.audience().contains(each))
        {
            return Err(Error::Answer("the token is for another identity or audience".to_owned()));
        }
        Ok(svid)
    }
}

impl Follower for Shared {
    fn revoked(&self, set: Arc<Revocations>) {
        self.bundles.update(|before| Arc::new(before.clone().with_revocations(set)));
        // A token of ours may be among them.
        self.cache(BTreeMap::clear);
    }
}

type Stream = Streaming<JwtBundlesResponse>;

async fn first(client: &mut WorkloadClient, deadline: Instant) -> Result<(Stream, BundleMap), Ended> {
    let attempt = async {
        let mut stream = client
            .fetch_jwt_bundles(JwtBundlesRequest {})
            .await
            .map_err(|status| Ended::of_status(&status))?
            .into_inner();
        let bundles = next(&mut stream).await?;
        Ok((stream, bundles))
    };
    let left = deadline.saturating_duration_since(Instant::now());
    timeout(left, attempt)
        .await
        .unwrap_or_else(|_| Err(Error::Unreachable("it does not answer in time".to_owned()).into()))
}

async fn next(stream: &mut Stream) -> Result<BundleMap, Ended> {
    let message = stream.message().await.map_err(|status| Ended::of_status(&status))?;
    Ok(jwt_bundles(&message.ok_or_else(|| Error::Unreachable("it ended the stream".to_owned()))?)?)
}

/// Applies whatever comes, and opens the stream again when it ends.
async fn follow(shared: Arc<Shared>, mut client: WorkloadClient, mut stream: Stream, mut backoff: Backoff) {
    loop {
        let mut ended = loop {
            match next(&mut stream).await {
                Ok(new) => {
                    backoff.reset();
                    shared.put(&new);
                    // The keys have changed, perhaps because one was stolen: what it signed is not given out again.
                    shared.cache(BTreeMap::clear);
                }
                Err(ended) => break ended,
            }
        };
        stream = loop {
            shared.end(&ended);
            sleep(backoff.next()).await;
            match first(&mut client, Instant::now() + Duration::from_secs(30)).await {
                Ok((stream, new)) => {
                    backoff.reset();
                    shared.put(&new);
                    break stream;
                }
                Err(new) => ended = new,
            }
        };
    }
}
