//! What rules are found by: keys of rules and of requests, as hashes.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

use crate::{
    asked::Asked,
    glob::{Glob, Segment},
};

/// Segments of an ID, a path or a name of a key that keys look at.
pub(super) const MAX_DEPTH: usize = 8;
/// Keys of one request that are gathered before the index is asked: an action, a host, a service, and the beginnings and
/// segments of three texts. Labels have what is left, and are computed again if it is not enough.
const MAX_KEYS: usize = 3 + 3 * (2 * MAX_DEPTH + 1);

/// What a key is about.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Facet {
    /// The first segments of the caller's ID; none: the trust domain.
    Id,
    /// One segment of the caller's ID.
    IdSegment,
    /// The first segments of the path.
    Path,
    /// One segment of the path.
    PathSegment,
    /// The first segments of the name of a key.
    Key,
    /// One segment of the name of a key.
    KeySegment,
    /// The caller has this label.
    HasLabel,
    /// The caller has this label with this value.
    Label,
    Host,
    Service,
    Action,
}

/// How keys are hashed: with a seed that callers don't know.
#[derive(Clone, Debug)]
pub(super) struct KeyHash(FixedState);

impl KeyHash {
    pub(super) fn new(seed: u64) -> Self {
        Self(FixedState::with_seed(seed))
    }

    pub(super) fn text(&self, facet: Facet, depth: usize, text: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write_u32((facet as u32) << 16 | u32::try_from(depth).unwrap_or(u32::MAX));
        hasher.write(text);
        hasher.finish()
    }

    /// Both keys at once.
    pub(super) fn pair(&self, one: u64, other: u64) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write_u64(one);
        hasher.write_u64(other);
        hasher.finish()
    }
}

/// One bit for each key: a rule's bits are a subset of a request's if its keys are.
pub(super) const fn bit(key: u64) -> u64 {
    1 << (key >> 58)
}

/// Which keys any rule is found by, so that a request computes no others.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) hashes: KeyHash,
    /// By depth, bit by bit.
    pub(super) ids: Places,
    pub(super) paths: Places,
    pub(super) keys: Places,
    /// By key.
    pub(super) labels: Box<[LabelUse]>,
    /// The [`label_bit`] of each of them.
    pub(super) label_bits: u64,
    pub(super) hosts: bool,
    pub(super) services: bool,
    /// Of each depth of an ID: with which depths of a path some rule is anchored.
    pub(super) id_paths: [u16; MAX_DEPTH + 1],
    /// Of each depth of an ID: with which depths of a key's name.
    pub(super) id_keys: [u16; MAX_DEPTH + 1],
}

/// How rules look at a label.
#[derive(Clone, Debug)]
pub(super) struct LabelUse {
    pub(super) key: Box<str>,
    /// Whether it is there.
    pub(super) exists: bool,
    /// Which value it has.
    pub(super) values: bool,
}

/// Depths and single segments that rules look at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub(super) depths: u16,
    pub(super) segments: u16,
}

/// The literal beginning of a pattern, and what is literal behind its first wildcard.
#[derive(Clone, Debug, Default)]
pub(super) struct Literal {
    /// Segments of the beginning.
    pub(super) depth: usize,
    /// With a separator between them.
    pub(super) beginning: String,
    /// Place, from 0, and text.
    pub(super) others: Vec<(usize, String)>,
}

impl Literal {
    /// Of segments, `None` being a wildcard.
    pub(super) fn of<'a>(
        start: &str,
        separator: bool,
        segments: impl Iterator<Item = Option<&'a str>>,
    ) -> Self {
        let mut literal = Self { beginning: start.to_owned(), ..Self::default() };
        let mut broken = false;
        for (place, segment) in segments.enumerate().take(MAX_DEPTH) {
            match segment {
                Some(text) if !broken => {
                    if separator || place > 0 {
                        literal.beginning.push('/');
                    }
                    literal.beginning.push_str(text);
                    literal.depth = place + 1;
                }
                Some(text) => literal.others.push((place, text.to_owned())),
                None => broken = true,
            }
        }
        literal
    }

    /// Of a path or a key's name.
    pub(super) fn of_glob(glob: &Glob, separator: bool) -> Self {
        let segments = glob.segments().iter().map(|segment| match segment {
            Segment::Is(text) => Some(&**text),
            Segment::Any => None,
        });
        Self::of("", separator, segments)
    }
}

/// The keys of one request.
pub(super) struct Keys {
    /// One bit for each.
    pub(super) have: u64,
    pub(super) action: u64,
    /// Those that stand for themselves.
    single: [u64; MAX_KEYS],
    /// May be more than fit.
    count: usize,
    ids: Depths,
    paths: Depths,
    keys: Depths,
}

/// The hash of each beginning; of those that nobody looks at, 0.
#[derive(Clone, Copy, Debug)]
struct Depths {
    hashes: [u64; MAX_DEPTH + 1],
    /// Which there are.
    present: u16,
}

impl Depths {
    const NONE: Self = Self { hashes: [0; MAX_DEPTH + 1], present: 0 };
}

impl Keys {
    /// None yet.
    #[inline]
    pub(super) const fn new() -> Self {
        Self {
            have: 0,
            action: 0,
            single: [0; MAX_KEYS],
            count: 0,
            ids: Depths::NONE,
            paths: Depths::NONE,
            keys: Depths::NONE,
        }
    }

    /// Those of a request, in place: they are too large to be moved for nothing.
    pub(super) fn gather(&mut self, asked: &Asked<'_>, shape: &Shape) {
        let hashes = &shape.hashes;
        let request = asked.request;
        self.action = hashes.text(Facet::Action, 0, request.can.as_bytes());
        self.add(self.action);
        let id = request.who.id();
        let root = id.as_str().len() - id.path().len();
        self.segments(hashes, (Facet::Id, Facet::IdSegment), shape.ids, (id.as_str(), root, 1));
        if let Some(path) = asked.path.filter(|path| *path != "/") {
            self.segments(hashes, (Facet::Path, Facet::PathSegment), shape.paths, (path, 0, 1));
        }
        if let Some(key) = request.on.key {
            self.segments(hashes, (Facet::Key, Facet::KeySegment), shape.keys, (key, 0, 0));
        }
        if let Some(host) = asked.host.filter(|_| shape.hosts) {
            self.add(hashes.text(Facet::Host, 0, host.as_bytes()));
        }
        if let Some(service) = request.on.service.filter(|_| shape.services) {
            self.add(hashes.text(Facet::Service, 0, service.as_bytes()));
        }
        for_each_label(asked, shape, |key| self.add(key));
    }

    fn add(&mut self, key: u64) {
        self.have |= bit(key);
        if let Some(slot) = self.single.get_mut(self.count) {
            *slot = key;
        }
        self.count += 1;
    }

    /// The keys of a text of segments, its root, where they begin, and how many bytes stand before the first.
    fn segments(
        &mut self,
        hashes: &KeyHash,
        (facet, segment_facet): (Facet, Facet),
        places: Places,
        (text, root, skip): (&str, usize, usize),
    ) {
        if places.depths | places.segments == 0 {
            return;
        }
        let bytes = text.as_bytes();
        self.begin(hashes, facet, places, 0, bytes.get(..root));
        let rest = bytes.get(root + skip..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        // No bit is set behind it.
        let deepest = 16 - (places.depths | places.segments << 1).leading_zeros() as usize;
        let ends = memchr::memchr_iter(b'/', rest).chain([rest.len()]);
        let mut start = 0;
        for (depth, end) in (1..deepest).zip(ends) {
            self.begin(hashes, facet, places, depth, bytes.get(..root + skip + end));
            if places.segments >> (depth - 1) & 1 == 1
                && let Some(segment) = rest.get(start..end)
            {
                self.add(hashes.text(segment_facet, depth - 1, segment));
            }
            start = end + 1;
        }
    }

    #[inline]
    fn begin(
        &mut self,
        hashes: &KeyHash,
        facet: Facet,
        places: Places,
        depth: usize,
        beginning: Option<&[u8]>,
    ) {
        if places.depths >> depth & 1 == 0 {
            return;
        }
        let Some(beginning) = beginning else { return };
        let key = hashes.text(facet, depth, beginning);
        let depths = match facet {
            Facet::Path => &mut self.paths,
            Facet::Key => &mut self.keys,
            _ => &mut self.ids,
        };
        if let Some(slot) = depths.hashes.get_mut(depth) {
            *slot = key;
            depths.present |= 1 << depth;
        }
        self.add(key);
    }

    /// Visits every key that a rule could be posted under.
    pub(super) fn for_each_anchor(&self, asked: &Asked<'_>, shape: &Shape, mut visit: impl FnMut(u64)) {
        for key in self.single.iter().take(self.count) {
            visit(*key);
        }
        if self.count > MAX_KEYS {
            for_each_label(asked, shape, &mut visit);
        }
        for (others, with) in [(&self.paths, &shape.id_paths), (&self.keys, &shape.id_keys)] {
            if others.present == 0 {
                continue;
            }
            for (depth, with) in with.iter().enumerate() {
                let mut both = with & others.present;
                if self.ids.present >> depth & 1 == 0 {
                    continue;
                }
                while both != 0 {
                    let other = both.trailing_zeros() as usize;
                    both &= both - 1;
                    if let (Some(id), Some(other)) = (self.ids.hashes.get(depth), others.hashes.get(other)) {
                        visit(shape.hashes.pair(*id, *other));
                    }
                }
            }
        }
    }
}

/// One of 64 bits for the key of a label, without looking at all of it: most labels of callers are in no rule.
pub(super) fn label_bit(key: &str) -> u64 {
    let first = key.as_bytes().first().copied().unwrap_or(0);
    1 << (u64::from(first).wrapping_mul(7).wrapping_add(key.len() as u64) & 63)
}

/// The keys of the caller's labels that rules look at.
fn for_each_label(asked: &Asked<'_>, shape: &Shape, mut visit: impl FnMut(u64)) {
    if shape.labels.is_empty() {
        return;
    }
    for (key, value) in asked.request.who.labels().iter() {
        if shape.label_bits & label_bit(key) == 0 {
            continue;
        }
        let Ok(place) = shape.labels.binary_search_by(|own| (*own.key).cmp(key)) else { continue };
        let Some(own) = shape.labels.get(place) else { continue };
        if own.exists {
            visit(shape.hashes.text(Facet::HasLabel, place, &[]));
        }
        if own.values {
            visit(shape.hashes.text(Facet::Label, place, value));
        }
    }
}

/// Takes hashes for what they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hashes;

/// See [`Hashes`].
#[derive(Debug, Default)]
pub(super) struct Hashed(u64);

impl BuildHasher for Hashes {
    type Hasher = Hashed;

    fn build_hasher(&self) -> Hashed {
        Hashed(0)
    }
}

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Keys are 64 bits; nothing else is ever written.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
