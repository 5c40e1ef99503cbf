//! Regions of the space of requests, and points in some of them and outside of others.

use super::{
    Exhausted,
    atom::{Atom, Literal, Point},
    conjunction,
};

/// Points that are looked for on the way to one answer.
const BUDGET: u32 = 4_000;
/// Open questions of which the one with the fewest answers is taken first.
const MAX_COMPARED: usize = 8;

/// Where all of some statements hold, except where all statements of one of some other lists do.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Region {
    /// All of them hold.
    pub atoms: Vec<Atom>,
    /// Not all of one of these.
    pub except: Vec<Vec<Atom>>,
}

/// Whether there is a point.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Nowhere.
    Nothing,
    /// There, for example.
    Point(Box<Point>),
    /// It would take too long to tell.
    Unknown,
}

impl Answer {
    /// The point, if there is one.
    pub fn point(self) -> Option<Point> {
        match self {
            Self::Point(point) => Some(*point),
            Self::Nothing | Self::Unknown => None,
        }
    }
}

impl Region {
    /// Whether the point is in it.
    pub fn contains(&self, point: &Point) -> bool {
        self.atoms.iter().all(|atom| atom.holds(point))
            && !self.except.iter().any(|except| except.iter().all(|atom| atom.holds(point)))
    }

    /// Whether both may have something in common: no is certain, and quick.
    pub fn may_meet(&self, other: &Self) -> bool {
        self.atoms.iter().all(|one| other.atoms.iter().all(|two| one.may_meet(two)))
    }

    /// Whether this may have all that `other` has, if that has anything: no is certain, and quick. A rule that asks for
    /// something that another does not speak of can't cover that one.
    pub fn may_cover(&self, other: &Self) -> bool {
        let spoken = || other.atoms.iter().chain(other.except.iter().flatten());
        self.atoms.iter().all(|one| spoken().any(|two| one.shares_subject(two)))
    }

    /// Whether this has all that `other` has. An unknown answer is no.
    pub fn covers(&self, other: &Self) -> bool {
        find(&[other], &[self]) == Answer::Nothing
    }
}

/// A point that is in each of `inside` and in none of `outside`.
pub fn find(inside: &[&Region], outside: &[&Region]) -> Answer {
    let mut literals: Vec<Literal<'_>> = Vec::new();
    let mut questions: Vec<Vec<Vec<Literal<'_>>>> = Vec::new();
    let not = |atom| vec![Literal { atom, holds: false }];
    for region in inside {
        literals.extend(region.atoms.iter().map(|atom| Literal { atom, holds: true }));
        for except in &region.except {
            questions.push(except.iter().map(not).collect());
        }
    }
    for region in outside {
        questions.push(region.atoms.iter().map(not).chain(region.except.iter().map(all)).collect());
    }
    let mut search = Search { questions, budget: BUDGET };
    match search.run(&mut literals) {
        Ok(Some(point)) => Answer::Point(Box::new(point)),
        Ok(None) => Answer::Nothing,
        Err(Exhausted) => Answer::Unknown,
    }
}

#[expect(clippy::ptr_arg, reason = "it is passed to `map` over lists of lists")]
fn all(atoms: &Vec<Atom>) -> Vec<Literal<'_>> {
    atoms.iter().map(|atom| Literal { atom, holds: true }).collect()
}

/// Each question is a list of answers, of which one must be true, and an answer is a list of literals. Only questions
/// that the last point did not answer are branched on.
struct Search<'a> {
    questions: Vec<Vec<Vec<Literal<'a>>>>,
    budget: u32,
}

impl<'a> Search<'a> {
    fn point(&mut self, literals: &[Literal<'a>]) -> Result<Option<Point>, Exhausted> {
        self.budget = self.budget.checked_sub(1).ok_or(Exhausted)?;
        conjunction::point(literals)
    }

    fn run(&mut self, literals: &mut Vec<Literal<'a>>) -> Result<Option<Point>, Exhausted> {
        let Some(point) = self.point(literals)? else { return Ok(None) };
        let answered = |question: &Vec<Vec<Literal<'a>>>| {
            question.iter().any(|answer| answer.iter().all(|literal| literal.is_true(&point)))
        };
        let open: Vec<usize> = self
            .questions
            .iter()
            .enumerate()
            .filter(|(_, question)| !answered(question))
            .map(|(index, _)| index)
            .take(MAX_COMPARED)
            .collect();
        if open.is_empty() {
            return Ok(Some(point));
        }
        let mut fewest: Option<Vec<Vec<Literal<'a>>>> = None;
        for index in open {
            let answers = self.questions.get(index).cloned().unwrap_or_default();
            let mut possible = Vec::new();
            for answer in answers {
                let before = literals.len();
                literals.extend(answer.iter().copied());
                let found = self.point(literals);
                literals.truncate(before);
                if found?.is_some() {
                    possible.push(answer);
                }
            }
            if possible.is_empty() {
                return Ok(None);
            }
            if fewest.as_ref().is_none_or(|fewest| possible.len() < fewest.len()) {
                let certain = possible.len() == 1;
                fewest = Some(possible);
                if certain {
                    break;
                }
            }
        }
        for answer in fewest.unwrap_or_default() {
            let before = literals.len();
            literals.extend(answer);
            let found = self.run(literals);
            literals.truncate(before);
            if let Some(point) = found? {
                return Ok(Some(point));
            }
        }
        Ok(None)
    }
}
