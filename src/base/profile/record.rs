//! Times of ranges, recorded by the program itself.

use std::cell::RefCell;
use std::fmt::Display;
use std::time::{Duration, Instant};

thread_local! {
    /// The ranges that have ended while this thread records.
    static ENDED: RefCell<Option<Vec<Span>>> = const { RefCell::new(None) };
}

/// A range that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Name of the range.
    pub name: String,
    /// How long it was open.
    pub time: Duration,
}

/// The begin of a range while its thread records.
#[derive(Debug)]
pub(super) struct Begin {
    name: String,
    at: Instant,
}

/// Runs `work`, and returns its result with the ranges of this thread that ended meanwhile, in the order of their ends.
pub(crate) fn record<T>(work: impl FnOnce() -> T) -> (T, Vec<Span>) {
    ENDED.set(Some(Vec::new()));
    let result = work();
    (result, ENDED.take().unwrap_or_default())
}

/// Begins a range. Does nothing, and does not format the name, if this thread does not record.
pub(super) fn begin(name: &impl Display) -> Option<Begin> {
    ENDED.with_borrow(Option::is_some).then(|| Begin { name: name.to_string(), at: Instant::now() })
}

/// Ends a range.
pub(super) fn end(Begin { name, at }: Begin) {
    let time = at.elapsed();
    ENDED.with_borrow_mut(|ended| {
        if let Some(ended) = ended {
            ended.push(Span { name, time });
        }
    });
}
