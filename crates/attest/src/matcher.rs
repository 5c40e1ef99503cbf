//! Which of very many selector sets are subsets of the attested one?
//!
//! Each entry is posted under one *anchor*, its rarest selector. A query looks only at the postings of the selectors
//! that it holds; a 64-bit signature beside each posting sorts out nearly all candidates before their rows are
//! touched. An anchor that was rare at insertion may have become common: a list that has doubled is walked once and
//! its entries move to what is rarest now, so the work stays proportional to the insertions.

use std::{
    collections::{BinaryHeap, HashMap},
    hash::Hash,
};

use foldhash::fast::RandomState;

use crate::{Selector, SelectorSet};

/// Postings that a list may hold before its entries look for rarer anchors.
const REANCHOR_AT: usize = 64;

/// An index of selector sets, each under an ID. Matching costs about a microsecond at a million entries.
#[derive(Clone, Debug)]
pub struct SubsetIndex<Id> {
    symbols: Vec<Symbol>,
    free_symbols: Vec<u32>,
    symbol_of: HashMap<Selector, u32, RandomState>,
    rows: Vec<Option<Row<Id>>>,
    free_rows: Vec<u32>,
    row_of: HashMap<Id, u32, RandomState>,
}

/// An interned selector.
#[derive(Clone, Debug)]
struct Symbol {
    selector: Selector,
    /// Entries that hold this selector.
    entries: u32,
    /// Entries that are anchored here.
    postings: Vec<Posting>,
    reanchor_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Posting {
    signature: u64,
    row: u32,
}

#[derive(Clone, Debug)]
struct Row<Id> {
    id: Id,
    /// Sorted.
    symbols: Box<[u32]>,
    anchor: u32,
}

/// An entry without selectors would match everything, and is never meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no selectors: it would match every workload")]
pub struct NoSelectors;

impl<Id> Default for SubsetIndex<Id> {
    fn default() -> Self {
        Self {
            symbols: Vec::new(),
            free_symbols: Vec::new(),
            symbol_of: HashMap::default(),
            rows: Vec::new(),
            free_rows: Vec::new(),
            row_of: HashMap::default(),
        }
    }
}

impl<Id: Clone + Eq + Hash> SubsetIndex<Id> {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.row_of.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.row_of.is_empty()
    }

    /// Puts an entry, in place of the one of the same ID.
    ///
    /// # Errors
    /// [`NoSelectors`] for an empty set; the entry of the same ID then stays as it was.
    pub fn insert(&mut self, id: Id, selectors: &SelectorSet) -> Result<(), NoSelectors> {
        if selectors.is_empty() {
            return Err(NoSelectors);
        }
        self.remove(&id);
        let mut symbols: Box<[u32]> = selectors.iter().map(|selector| self.intern(selector)).collect();
        symbols.sort_unstable();
        let anchor = self.rarest(&symbols).ok_or(NoSelectors)?;
        let posting = Posting { signature: signature(&symbols), row: 0 };
        let row = Row { id: id.clone(), symbols, anchor };
        let index = match self.free_rows.pop() {
            Some(index) => {
                if let Some(slot) = self.rows.get_mut(index as usize) {
                    *slot = Some(row);
                }
                index
            }
            None => {
                self.rows.push(Some(row));
                u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.row_of.insert(id, index);
        if let Some(symbol) = self.symbols.get_mut(anchor as usize) {
            symbol.postings.push(Posting { row: index, ..posting });
            if symbol.postings.len() > symbol.reanchor_at {
                self.reanchor(anchor);
            }
        }
        Ok(())
    }

    /// Takes an entry out; `false` if there was none.
    pub fn remove(&mut self, id: &Id) -> bool {
        let Some(index) = self.row_of.remove(id) else { return false };
        let Some(row) = self.rows.get_mut(index as usize).and_then(Option::take) else { return false };
        self.free_rows.push(index);
        if let Some(anchor) = self.symbols.get_mut(row.anchor as usize)
            && let Some(at) = anchor.postings.iter().position(|posting| posting.row == index)
        {
            anchor.postings.swap_remove(at);
        }
        for symbol in row.symbols {
            self.release(symbol);
        }
        true
    }

    /// The entries whose every selector is attested, in no particular order.
    #[must_use]
    pub fn matches(&self, attested: &SelectorSet) -> Vec<Id> {
        let mut found = Vec::new();
        self.for_each_match(attested, |id| found.push(id.clone()));
        found
    }

    /// Visits the entries whose every selector is attested, in no particular order.
    pub fn for_each_match(&self, attested: &SelectorSet, mut visit: impl FnMut(&Id)) {
        let symbols = self.known(attested);
        let missing = !signature(&symbols);
        for symbol in &symbols {
            let Some(symbol) = self.symbols.get(*symbol as usize) else { continue };
            for posting in &symbol.postings {
                if posting.signature & missing == 0
                    && let Some(Some(row)) = self.rows.get(posting.row as usize)
                    && row.symbols.iter().all(|symbol| symbols.binary_search(symbol).is_ok())
                {
                    visit(&row.id);
                }
            }
        }
    }

    /// The entries that do not match but come closest: fewest missing selectors first, then most shared ones. Looks
    /// at every entry, so it is for people who ask why, not for the path of a request.
    #[must_use]
    pub fn near_misses(&self, attested: &SelectorSet, limit: usize) -> Vec<(Id, Vec<Selector>)> {
        if limit == 0 {
            return Vec::new();
        }
        let known = self.known(attested);
        // A bounded heap with the worst on top: (missing, not shared, row).
        let mut closest: BinaryHeap<(usize, usize, usize)> = BinaryHeap::with_capacity(limit + 1);
        for (index, row) in self.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            let shared = row.symbols.iter().filter(|symbol| known.binary_search(symbol).is_ok()).count();
            let missing = row.symbols.len() - shared;
            if missing == 0 {
                continue;
            }
            closest.push((missing, usize::MAX - shared, index));
            if closest.len() > limit {
                closest.pop();
            }
        }
        let describe = |(_, _, index): (usize, usize, usize)| {
            let row = self.rows.get(index)?.as_ref()?;
            let mut missing: Vec<Selector> = row
                .symbols
                .iter()
                .filter(|symbol| known.binary_search(symbol).is_err())
                .filter_map(|symbol| self.symbols.get(*symbol as usize))
                .map(|symbol| symbol.selector.clone())
                .collect();
            missing.sort_unstable();
            Some((row.id.clone(), missing))
        };
        closest.into_sorted_vec().into_iter().filter_map(describe).collect()
    }

    /// The longest list of postings: what one selector can cost a query at most.
    #[must_use]
    pub fn longest_posting(&self) -> usize {
        self.symbols.iter().map(|symbol| symbol.postings.len()).max().unwrap_or(0)
    }

    /// The attested selectors that some entry holds, sorted by symbol.
    fn known(&self, attested: &SelectorSet) -> Vec<u32> {
        let mut symbols: Vec<u32> =
            attested.iter().filter_map(|selector| self.symbol_of.get(selector).copied()).collect();
        symbols.sort_unstable();
        symbols
    }

    /// Finds or makes the symbol, and counts one more entry in it.
    fn intern(&mut self, selector: &Selector) -> u32 {
        if let Some(index) = self.symbol_of.get(selector).copied() {
            if let Some(symbol) = self.symbols.get_mut(index as usize) {
                symbol.entries += 1;
            }
            return index;
        }
        let symbol =
            Symbol { selector: selector.clone(), entries: 1, postings: Vec::new(), reanchor_at: REANCHOR_AT };
        let index = match self.free_symbols.pop() {
            Some(index) => {
                if let Some(slot) = self.symbols.get_mut(index as usize) {
                    *slot = symbol;
                }
                index
            }
            None => {
                self.symbols.push(symbol);
                u32::try_from(self.symbols.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.symbol_of.insert(selector.clone(), index);
        index
    }

    /// Counts one entry less; the last one frees the symbol.
    fn release(&mut self, index: u32) {
        let Some(symbol) = self.symbols.get_mut(index as usize) else { return };
        symbol.entries = symbol.entries.saturating_sub(1);
        if symbol.entries == 0 {
            symbol.postings = Vec::new();
            self.symbol_of.remove(&symbol.selector);
            self.free_symbols.push(index);
        }
    }

    fn rarest(&self, symbols: &[u32]) -> Option<u32> {
        symbols
            .iter()
            .copied()
            .min_by_key(|symbol| self.symbols.get(*symbol as usize).map_or(u32::MAX, |s| s.entries))
    }

    fn reanchor(&mut self, crowded: u32) {
        let Some(symbol) = self.symbols.get_mut(crowded as usize) else { return };
        let entries = symbol.entries;
        let postings = std::mem::take(&mut symbol.postings);
        let mut stay = Vec::new();
        for posting in postings {
            let rarest = self
                .rows
                .get(posting.row as usize)
                .and_then(Option::as_ref)
                .and_then(|row| self.rarest(&row.symbols));
            let better = rarest
                .filter(|anchor| *anchor != crowded)
                .and_then(|anchor| Some((anchor, self.symbols.get_mut(anchor as usize)?)))
                .filter(|(_, symbol)| symbol.entries < entries);
            let Some((anchor, symbol)) = better else {
                stay.push(posting);
                continue;
            };
            symbol.postings.push(posting);
            if let Some(Some(row)) = self.rows.get_mut(posting.row as usize) {
                row.anchor = anchor;
            }
        }
        if let Some(symbol) = self.symbols.get_mut(crowded as usize) {
            symbol.reanchor_at = REANCHOR_AT.max(stay.len() * 2);
            symbol.postings = stay;
        }
    }
}

/// One bit for each symbol: an entry's bits are a subset of a query's if its symbols are.
fn signature(symbols: &[u32]) -> u64 {
    symbols
        .iter()
        .fold(0, |bits, symbol| bits | 1 << (u64::from(*symbol).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58))
}
