//! The search against brute force: a small space of requests, of which every one is tried.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use proptest::prelude::*;

use super::{
    atom::{Atom, Point, Trail, Variable},
    domain::Domain,
    glob::Glob,
    range::{Network, Span},
    region::{Answer, Region, find},
};

/// Each of them takes its values from `TEXTS`, or is not there.
fn variables() -> [Variable; 3] {
    [
        Variable::CallerLabel("env".into()),
        Variable::WorkloadLabel("env".into()),
        Variable::Context("env".into()),
    ]
}

/// Statements name the first two; the others are as good as any further ones.
const TEXTS: [&str; 5] = ["a", "b", "x", "y", "z"];

fn variable() -> impl Strategy<Value = Variable> {
    prop::sample::select(variables().to_vec())
}

fn glob() -> impl Strategy<Value = Glob> {
    let segment = prop::option::of(prop::sample::select(vec!["a", "b"]).prop_map(Arc::from));
    (prop::collection::vec(segment, 0..3), any::<bool>()).prop_map(|(fixed, open)| Glob::new(fixed, open))
}

fn atom() -> impl Strategy<Value = Atom> {
    let values = prop::collection::vec(prop::sample::select(vec!["a", "b"]).prop_map(Arc::from), 1..3);
    let domain = prop_oneof![
        values.clone().prop_map(Domain::one_of),
        values.prop_map(Domain::none_of),
        Just(Domain::present()),
        Just(Domain::absent()),
    ];
    prop_oneof![
        4 => (variable(), domain).prop_map(|(variable, domain)| Atom::Value(variable, domain)),
        2 => (variable(), variable()).prop_map(|(one, other)| Atom::Equal(one, other)),
        2 => prop::collection::vec(glob(), 1..3).prop_map(|globs| Atom::Trail(Trail::Path, globs)),
        1 => (0_i64..4, prop::option::of(0_i64..6)).prop_map(|(from, until)| Atom::Time(Span { from, until })),
        1 => (0_u8..4, 30_u8..=32).prop_map(|(low, length)| {
            Atom::Source(vec![Network::new(Ipv4Addr::new(10, 0, 0, low).into(), length).unwrap()])
        }),
    ]
}

fn region() -> impl Strategy<Value = Region> {
    let atoms = prop::collection::vec(atom(), 0..4);
    let except = prop::collection::vec(prop::collection::vec(atom(), 1..3), 0..3);
    (atoms, except).prop_map(|(atoms, except)| Region { atoms, except })
}

/// A request of every kind that statements can tell apart.
fn everywhere() -> Vec<Point> {
    let texts = || std::iter::once(None).chain(TEXTS.map(Some));
    let mut values = Vec::new();
    for one in texts() {
        for two in texts() {
            for three in texts() {
                let pairs = variables().into_iter().zip([one, two, three]);
                values.push(pairs.filter_map(|(variable, text)| Some((variable, text?.into()))).collect());
            }
        }
    }
    let mut paths: Vec<Option<Vec<Arc<str>>>> = vec![None, Some(Vec::new())];
    for one in ["a", "b", "c"] {
        paths.push(Some(vec![one.into()]));
        for two in ["a", "b", "c"] {
            paths.push(Some(vec![one.into(), two.into()]));
            paths.push(Some(vec![one.into(), two.into(), "c".into()]));
        }
    }
    let sources = || std::iter::once(None).chain((0..5).map(|low| Some(IpAddr::from([10, 0, 0, low]))));
    let mut points = Vec::new();
    for values in values {
        for path in &paths {
            // Times and addresses are independent of everything else: a few of them each time.
            for (time, source) in (-1..7).zip(sources().cycle()) {
                let trails = path.iter().map(|path| (Trail::Path, path.clone())).collect();
                points.push(Point { source, time, trails, values: Clone::clone(&values) });
            }
        }
    }
    points
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_point_is_found_where_there_is_one(
        inside in prop::collection::vec(region(), 1..3),
        outside in prop::collection::vec(region(), 0..4),
    ) {
        let inside: Vec<&Region> = inside.iter().collect();
        let outside: Vec<&Region> = outside.iter().collect();
        let fits = |point: &Point| {
            inside.iter().all(|region| region.contains(point)) && !outside.iter().any(|region| region.contains(point))
        };
        match find(&inside, &outside) {
            Answer::Point(point) => prop_assert!(fits(&point), "{point:?}"),
            Answer::Nothing => {
                let missed = everywhere().into_iter().find(|point| fits(point));
                prop_assert!(missed.is_none(), "{missed:?}");
            }
            Answer::Unknown => prop_assert!(false, "such small regions are no trouble"),
        }
    }
}

#[test]
fn texts_that_must_differ_need_enough_texts() {
    let labels: Vec<Variable> =
        ["a", "b", "c"].map(|key| Variable::CallerLabel(key.into())).into_iter().collect();
    let two = |variable: &Variable| Atom::Value(variable.clone(), Domain::one_of(["x".into(), "y".into()]));
    let inside = Region { atoms: labels.iter().map(two).collect(), except: Vec::new() };
    let equal = |one: usize, other: usize| Region {
        atoms: vec![Atom::Equal(labels[one].clone(), labels[other].clone())],
        except: Vec::new(),
    };
    let pairs = [equal(0, 1), equal(1, 2), equal(0, 2)];
    assert!(matches!(find(&[&inside], &[&pairs[0], &pairs[1]]), Answer::Point(_)));
    assert_eq!(find(&[&inside], &[&pairs[0], &pairs[1], &pairs[2]]), Answer::Nothing);
}

#[test]
fn a_union_covers_what_no_single_one_does() {
    let env = Variable::CallerLabel("env".into());
    let is = |domain: Domain| Region { atoms: vec![Atom::Value(env.clone(), domain)], except: Vec::new() };
    let all = is(Domain::present());
    let prod = is(Domain::one_of(["prod".into()]));
    let others = is(Domain::none_of(["prod".into()]));
    assert!(!prod.covers(&all) && !others.covers(&all));
    assert_eq!(find(&[&all], &[&prod, &others]), Answer::Nothing);
}

#[test]
fn a_search_that_takes_too_long_says_so() {
    // Pigeons: eight labels of seven texts, all different.
    let labels: Vec<Variable> = (0..9).map(|n| Variable::CallerLabel(format!("l{n}").into())).collect();
    let texts = || (0..8).map(|n| Arc::from(format!("t{n}")));
    let inside = Region {
        atoms: labels.iter().map(|label| Atom::Value(label.clone(), Domain::one_of(texts()))).collect(),
        except: Vec::new(),
    };
    let mut pairs = Vec::new();
    for (index, one) in labels.iter().enumerate() {
        for other in labels.iter().skip(index + 1) {
            pairs.push(Region { atoms: vec![Atom::Equal(one.clone(), other.clone())], except: Vec::new() });
        }
    }
    assert_eq!(find(&[&inside], &pairs.iter().collect::<Vec<_>>()), Answer::Unknown);
}
