//! Latent states that several processes share: rank r of them has the slots from r·n on, where n is its number of images. What forms of states
//! with a memory keep is the same on every rank.

use std::borrow::Cow;

use super::{LatentStates, Pair, StateForm};
use crate::engine::collective::Collective;
use crate::engine::device::Mirrored;
use crate::engine::graph::StateDecl;
use crate::{Error, Result};

/// Returns the numbers of all ranks, in their order; `None` in a single process.
///
/// # Errors
/// The device was lost.
pub(super) fn of_all(own: &Mirrored, ranks: &Collective) -> Result<Option<Mirrored>> {
    if !ranks.has_others() {
        return Ok(None);
    }
    own.fetch()?;
    Ok(Some(ranks.gather::<f32>(own).into()))
}

impl LatentStates {
    /// Returns the same states for a rank that has a part of their slots.
    #[must_use]
    pub fn of_ranks(self, ranks: &Collective) -> LatentStates {
        LatentStates { ranks: ranks.clone(), ..self }
    }

    /// Keeps the slots of this rank for batches of `batch` images, if those of all are here.
    pub(super) fn take_own_slots(&mut self, decls: &[StateDecl], batch: usize) -> Result<()> {
        if !(self.ranks.has_others() && std::mem::take(&mut self.is_whole)) || self.form != StateForm::Slots {
            return Ok(());
        }
        self.fetch()?;
        for (decl, pair) in decls.iter().zip(&mut self.pairs) {
            let len = batch * decl.slot.len();
            let [start, end] = [0, 1].map(|next| ((self.ranks.rank() + next) * len).min(pair.held));
            pair.current = pair.current[start..end].to_vec().into();
            pair.held = end - start;
        }
        Ok(())
    }

    /// Returns the states with the slots of all ranks. All ranks must call it.
    ///
    /// # Errors
    /// The device was lost.
    pub fn gathered(&self) -> Result<Cow<'_, LatentStates>> {
        if self.is_whole || !self.ranks.has_others() {
            return Ok(Cow::Borrowed(self));
        }
        let (labels, collected) = (self.labels.clone(), self.collected.clone());
        let &LatentStates { init, seed, resets, form, rate, classes, .. } = self;
        let (ranks, pairs) = (self.ranks.clone(), Vec::new());
        let mut all =
            LatentStates { init, seed, resets, form, rate, classes, labels, collected, pairs, ranks, is_whole: true };
        for pair in &self.pairs {
            pair.memory.fetch()?;
            let of_all = |own| Ok::<_, Error>(of_all(own, &self.ranks)?.expect("there are others"));
            let (current, previous) = (of_all(&pair.current)?, of_all(&pair.previous)?);
            let mut whole = Pair { current, previous, memory: pair.memory.clone(), held: pair.held };
            if self.form == StateForm::Slots {
                whole.held *= self.ranks.ranks();
            }
            all.pairs.push(whole);
        }
        Ok(Cow::Owned(all))
    }
}
