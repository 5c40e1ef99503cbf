//! Random policies and requests over a small vocabulary, in which they meet often.

use std::fmt::Write as _;

use bonafide_identity::{SpiffeId, UnixTime};
use bonafide_policy::{AssertedProps, Caller, CertifiedLabels, Scenario, scenario::DEFAULT_NOW};

const DOMAINS: [&str; 2] = ["a.example", "b.example"];
const NAMESPACES: [&str; 2] = ["shop", "bill"];
const ACCOUNTS: [&str; 3] = ["web", "api", "job"];
const LABELS: [(&str, &[&str]); 4] = [
    ("env", &["prod", "dev"]),
    ("tier", &["web", "api", "exists"]),
    ("region", &["eu", "us"]),
    ("quarantine", &["yes", ""]),
];
const PROPS: [(&str, &[&str]); 2] = [("role", &["admin", "user"]), ("level", &["1", "2"])];
const AAD: [(&str, &[&str]); 2] = [("tenant", &["t1", "eu", "prod"]), ("purpose", &["p", "q"])];
const ACTIONS: [&str; 5] = ["GET", "POST", "get", "encrypt", "sign"];
const SEGMENTS: [&str; 4] = ["v1", "orders", "7", "audit"];
const HOSTS: [&str; 4] = ["orders.example.org", "api.example.org", "a.b.example.org", "[2001:db8::1]"];
const KEYS: [&str; 5] = ["orders", "orders/pii", "orders/card", "release/a", "release/a/b"];
const SERVICES: [&str; 3] = ["s.Orders", "s.Ledger", "s.Bank"];
const ALGORITHMS: [&str; 3] = ["ed25519", "es256", "rs256"];
const NETWORKS: [&str; 5] = ["10.0.0.0/8", "10.1.0.0/16", "192.168.1.7/32", "2001:db8::/32", "0.0.0.0/0"];
const ADDRESSES: [&str; 6] =
    ["10.0.0.1", "10.1.2.3", "192.168.1.7", "192.168.1.8", "2001:db8::7", "::ffff:10.1.2.3"];
const DAY: i64 = 86_400;

/// xorshift64*
pub(crate) struct Generator(u64);

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % bound
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One, or a list of up to three.
    fn list(&mut self, mut one: impl FnMut(&mut Self) -> String) -> String {
        let mut items: Vec<String> = (0..1 + self.below(3)).map(|_| one(self)).collect();
        if items.len() == 1 && self.one_in(2) { items.remove(0) } else { format!("[{}]", items.join(", ")) }
    }

    /// Documents with about `rules` rules.
    pub(crate) fn documents(&mut self, rules: usize) -> String {
        let mut out = String::new();
        let mut left = rules;
        let mut number = 0;
        while left > 0 {
            let here = (1 + self.below(6)).min(left);
            left -= here;
            let kind = self.pick(&["Policy", "Policy", "Policy", "Guardrail"]);
            let _ = write!(out, "---\nkind: {kind}\nname: p{number}\n");
            number += 1;
            if self.one_in(5) {
                let _ = writeln!(out, "appliesTo: {}", self.labels());
            }
            if self.one_in(6) {
                out.push_str("mode: shadow\n");
            }
            out.push_str("rules:\n");
            for rule in 0..here {
                let effect = if kind == "Guardrail" || self.one_in(3) { "deny" } else { "allow" };
                let _ = writeln!(out, "- name: r{rule}\n  {effect}: {}", self.clauses(effect == "deny"));
            }
        }
        out
    }

    /// A `SecretPolicy` of a few rules, without a witness.
    pub(crate) fn secret_policy(&mut self) -> String {
        let mut out = "kind: SecretPolicy\nname: p\nrules:\n".to_owned();
        for rule in 0..1 + self.below(4) {
            let effect = if self.one_in(4) { "deny" } else { "allow" };
            let mut who = self.who(2);
            // Nobody certified what a program asserts.
            while who.contains("props") {
                who = self.who(2);
            }
            let _ = writeln!(out, "- {{name: r{rule}, {effect}: {{who: {who}}}}}");
        }
        out
    }

    /// Denials have more clauses, so that something is left to be allowed.
    fn clauses(&mut self, narrow: bool) -> String {
        let rare = if narrow { 2 } else { 3 };
        let mut clauses = vec![format!("who: {}", self.who(rare))];
        if self.one_in(rare) {
            clauses.push(format!("can: {}", self.list(|own| own.pick(&ACTIONS).to_owned())));
        }
        if self.one_in(rare) {
            clauses.push(format!("on: {}", self.on()));
        }
        if self.one_in(rare + 1) {
            clauses.push(format!("when: {}", self.when()));
        }
        if self.one_in(4) {
            clauses.push(format!("except: {}", self.except()));
        }
        format!("{{{}}}", clauses.join(", "))
    }

    fn who(&mut self, rare: usize) -> String {
        let mut fields = Vec::new();
        if self.one_in(rare) {
            fields.push(format!("id: {}", self.list(Self::id_pattern)));
        }
        if self.one_in(6) {
            fields.push(format!("trustDomain: {}", self.list(|own| own.pick(&DOMAINS).to_owned())));
        }
        if self.one_in(2) {
            fields.push(format!("labels: {}", self.labels()));
        }
        if self.one_in(10) {
            fields.push(format!("props: {}", self.requirements(&PROPS)));
        }
        if fields.is_empty() { "anyone".to_owned() } else { format!("{{{}}}", fields.join(", ")) }
    }

    fn id_pattern(&mut self) -> String {
        let domain = self.pick(&DOMAINS);
        let namespace = self.pick(&["shop", "bill", "*"]);
        let account = self.pick(&["web", "api", "job", "*"]);
        let tail = self.pick(&["", "", "", "**"]);
        match tail {
            "" => format!("spiffe://{domain}/ns/{namespace}/sa/{account}"),
            _ => {
                format!("spiffe://{domain}/{}**", self.pick(&["", "ns/", "ns/*/", "ns/shop/", "ns/bill/sa/"]))
            }
        }
    }

    fn labels(&mut self) -> String {
        self.requirements(&LABELS)
    }

    fn requirements(&mut self, of: &[(&str, &[&str])]) -> String {
        let first = self.below(of.len());
        let mut fields = vec![self.requirement(of[first])];
        let second = self.below(of.len());
        if second != first && self.one_in(3) {
            fields.push(self.requirement(of[second]));
        }
        format!("{{{}}}", fields.join(", "))
    }

    fn requirement(&mut self, (key, values): (&str, &[&str])) -> String {
        let value = |own: &mut Self| format!("\"{}\"", own.pick(values));
        let form = match self.below(6) {
            0 => "exists".to_owned(),
            1 => "absent".to_owned(),
            2 => format!("{{not: {}}}", self.list(value)),
            3 => format!("[{}, {}]", value(self), value(self)),
            _ => format!("[{}]", value(self)),
        };
        format!("{key}: {form}")
    }

    fn on(&mut self) -> String {
        let mut fields = Vec::new();
        let field = self.below(6);
        if field <= 2 {
            fields.push(format!("path: {}", self.list(Self::path_pattern)));
        }
        if field == 3 {
            fields.push(format!("key: {}", self.list(Self::key_pattern)));
        }
        if field == 4 || self.one_in(8) {
            fields.push(format!("host: {}", self.list(Self::host_pattern)));
        }
        if field == 5 {
            fields.push(format!("service: {}", self.list(|own| own.pick(&SERVICES).to_owned())));
        }
        if self.one_in(10) {
            fields.push(format!("props: {}", self.requirements(&PROPS)));
        }
        format!("{{{}}}", fields.join(", "))
    }

    fn path_pattern(&mut self) -> String {
        let mut path = String::new();
        for segment in SEGMENTS.into_iter().take(self.below(5)) {
            let _ = write!(path, "/{}", if self.one_in(4) { "*" } else { segment });
        }
        match (self.one_in(2), path.is_empty()) {
            (true, _) => format!("{path}/**"),
            (false, true) => "/".to_owned(),
            (false, false) => path,
        }
    }

    fn key_pattern(&mut self) -> String {
        self.pick(&["orders/pii", "orders/*", "orders/**", "\"*/a\"", "release/**", "\"**\"", "\"*/*\""])
            .to_owned()
    }

    fn host_pattern(&mut self) -> String {
        self.pick(&["orders.example.org", "API.example.org", "\"*.example.org\"", "\"[2001:db8:0::1]\""])
            .to_owned()
    }

    fn when(&mut self) -> String {
        let mut fields = Vec::new();
        match self.below(7) {
            0 => fields.push(format!("same: {}", self.pick(&["env", "[env, region]", "[region]"]))),
            1 | 6 => {
                let mut pairs = Vec::new();
                let both = self.one_in(4);
                for (key, values) in AAD.into_iter().take(1 + usize::from(both)) {
                    let template = self.pick(&["{who.labels.env}", "{who.labels.region}"]);
                    let value = if self.one_in(2) { self.pick(values) } else { template };
                    pairs.push(format!("{key}: \"{value}\""));
                }
                fields.push(format!("aad: {{{}}}", pairs.join(", ")));
            }
            2 => fields.push(format!("alg: {}", self.list(|own| own.pick(&ALGORITHMS).to_owned()))),
            3 => {
                let moment = |own: &mut Self| UnixTime::from_secs(DEFAULT_NOW.as_secs() + DAY * own.day());
                let (one, other) = (moment(self), moment(self));
                fields.push(match (one.cmp(&other), self.one_in(3)) {
                    (std::cmp::Ordering::Less, false) => format!("time: {{from: {one}, until: {other}}}"),
                    (std::cmp::Ordering::Greater, _) => format!("time: {{until: {one}}}"),
                    _ => format!("time: {{from: {one}}}"),
                });
            }
            4 => fields.push(format!("source: {}", self.list(|own| format!("\"{}\"", own.pick(&NETWORKS))))),
            _ => fields.push(format!("props: {}", self.requirements(&PROPS))),
        }
        format!("{{{}}}", fields.join(", "))
    }

    fn except(&mut self) -> String {
        let mut items = Vec::new();
        for _ in 0..1 + self.below(2) {
            let mut fields = Vec::new();
            match self.below(7) {
                0 => fields.push(format!("id: {}", self.list(Self::id_pattern))),
                1 => fields.push(format!("trustDomain: {}", self.pick(&DOMAINS))),
                2 => fields.push(format!("labels: {}", self.labels())),
                3 => fields.push(format!("host: {}", self.list(Self::host_pattern))),
                4 => fields.push(format!("key: {}", self.list(Self::key_pattern))),
                5 => fields.push(format!("service: {}", self.pick(&SERVICES))),
                _ => fields.push(format!("path: {}", self.list(Self::path_pattern))),
            }
            if self.one_in(3) {
                fields.push(format!("can: {}", self.list(|own| own.pick(&ACTIONS).to_owned())));
            }
            items.push(format!("{{{}}}", fields.join(", ")));
        }
        if items.len() == 1 { items.remove(0) } else { format!("[{}]", items.join(", ")) }
    }

    /// From five days before to five days after.
    fn day(&mut self) -> i64 {
        self.below(11) as i64 - 5
    }

    /// The labels of one of several workloads.
    pub(crate) fn certified(&mut self) -> CertifiedLabels {
        let mut labels = Vec::new();
        for (key, values) in LABELS {
            let rare = key == "quarantine";
            if if rare { self.one_in(8) } else { !self.one_in(4) } {
                labels.push((key, self.pick(values)));
            }
        }
        CertifiedLabels::new(labels).unwrap()
    }

    fn props(&mut self, of: &[(&str, &[&str])]) -> AssertedProps {
        let mut props = Vec::new();
        for (key, values) in of {
            if self.one_in(2) {
                props.push((*key, self.pick(values)));
            }
        }
        AssertedProps::new(props).unwrap()
    }

    /// A request to a workload with these labels.
    pub(crate) fn scenario(&mut self, callee: &CertifiedLabels) -> Scenario {
        let domain = self.pick(&DOMAINS);
        let id = match self.below(12) {
            0 => format!("spiffe://{domain}"),
            1 => format!("spiffe://{domain}/ns/shop"),
            _ => format!("spiffe://{domain}/ns/{}/sa/{}", self.pick(&NAMESPACES), self.pick(&ACCOUNTS)),
        };
        let labels = self.certified();
        let mut scenario =
            Scenario::new(Caller::new(SpiffeId::parse(&id).unwrap(), labels), self.pick(&ACTIONS));
        scenario.who_props = self.props(&PROPS);
        scenario.callee = callee.clone();
        match self.below(5) {
            0 => scenario.key = Some(self.pick(&KEYS).to_owned()),
            1 => scenario.service = Some(self.pick(&SERVICES).to_owned()),
            _ => scenario.path = Some(self.path()),
        }
        if self.one_in(2) {
            scenario.host = Some(self.host());
        }
        scenario.on_props = self.props(&PROPS);
        scenario.aad = if self.one_in(4) { AssertedProps::default() } else { self.props(&AAD) };
        if let (true, Some(value)) = (self.one_in(4), scenario.who.labels().get("region")) {
            let value = String::from_utf8(value.to_vec()).unwrap();
            scenario.aad = AssertedProps::new([("tenant", value.as_str())]).unwrap();
        }
        scenario.algorithm = self.one_in(2).then(|| self.pick(&ALGORITHMS).to_owned());
        scenario.source = self.one_in(2).then(|| self.pick(&ADDRESSES).parse().unwrap());
        scenario.when_props = self.props(&PROPS);
        scenario.now = UnixTime::from_secs(DEFAULT_NOW.as_secs() + DAY * self.day());
        scenario
    }

    fn path(&mut self) -> String {
        if self.one_in(40) {
            return self.pick(&["/v1/../orders", "/v1%2forders", "v1", "/v1//orders", "/v1/%00"]).to_owned();
        }
        let mut path = String::new();
        for segment in SEGMENTS.into_iter().take(self.below(6)) {
            let other = self.pick(&["v2", "8", "%6frders", "ORDERS"]);
            let _ = write!(path, "/{}", if self.one_in(6) { other } else { segment });
        }
        if path.is_empty() || self.one_in(8) {
            path.push('/');
        }
        if self.one_in(6) {
            path.push_str("?a=/../b");
        }
        path
    }

    fn host(&mut self) -> String {
        if self.one_in(40) {
            return "user@host".to_owned();
        }
        let host = self.pick(&HOSTS);
        match self.below(4) {
            0 => host.to_uppercase(),
            1 => format!("{host}:8443"),
            _ => host.to_owned(),
        }
    }
}

#[test]
fn requests_are_in_bounds() {
    let mut numbers = Generator::new(7);
    for _ in 0..1000 {
        let callee = numbers.certified();
        let scenario = numbers.scenario(&callee);
        assert_eq!(scenario.request().who, &scenario.who);
    }
}
