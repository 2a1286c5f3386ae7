use super::memory::{groups, rows_of_slots};
use super::*;
use crate::engine::shape::Shape;

const SLOT: Shape = Shape { n: 1, h: 2, w: 1, c: 2 };

fn decls() -> Vec<StateDecl> {
    vec![StateDecl { name: "cell".into(), slot: SLOT }]
}

/// Runs a step of 4 slots whose states become the numbers from `first` on. Returns what it started from.
fn step(states: &mut LatentStates, labels: &[u32], first: f32) -> Vec<f32> {
    let len = labels.len() * SLOT.len();
    states.set_labels(labels);
    states.begin_step(&decls(), labels.len(), None).unwrap();
    let (before, after) = states.step(StateId(0));
    let before = before.to_vec();
    after.iter_mut().zip(0..len).for_each(|(v, i)| *v = first + i as f32);
    states.end_step(&decls(), labels.len(), None).unwrap();
    before
}

fn with_form(form: StateForm) -> LatentStates {
    LatentStates::new(StateInit::Zeros, 3).with_form(form, 0.5, 3)
}

/// The slots of a batch, sorted, so that their order does not matter.
fn sorted(state: &[f32]) -> Vec<Vec<f32>> {
    let mut slots: Vec<Vec<f32>> = state.chunks_exact(SLOT.len()).map(<[f32]>::to_vec).collect();
    slots.sort_by(|a, b| a[0].total_cmp(&b[0]));
    slots
}

#[test]
fn permuted_slots_are_those_of_the_last_step_in_another_order_each_time() {
    let mut states = with_form(StateForm::Permuted);
    let labels = [0; 8];
    assert_eq!(step(&mut states, &labels, 1.0), [0.0; 32]);
    let (second, third) = (step(&mut states, &labels, 1.0), step(&mut states, &labels, 1.0));
    let in_order: Vec<f32> = (0..32).map(|i| 1.0 + i as f32).collect();
    assert_eq!(sorted(&second), sorted(&in_order));
    assert_eq!(sorted(&third), sorted(&in_order));
    assert!(second != in_order && third != in_order && second != third);
    // The same seed gives the same orders, another reset does not.
    let mut again = with_form(StateForm::Permuted);
    step(&mut again, &labels, 1.0);
    assert_eq!(step(&mut again, &labels, 1.0), second);
    again.reset();
    assert_eq!(step(&mut again, &labels, 1.0), [0.0; 32]);
    assert_ne!(step(&mut again, &labels, 1.0), second);
}

#[test]
fn a_reset_empties_every_form() {
    for &form in StateForm::ALL {
        let mut states = with_form(form);
        let labels = [0, 1, 1, 2];
        step(&mut states, &labels, 1.0);
        assert_ne!(step(&mut states, &labels, 1.0), [0.0; 16], "{form}");
        states.reset();
        assert!(states.current(StateId(0)).is_empty(), "{form}");
        assert_eq!(step(&mut states, &labels, 1.0), [0.0; 16], "{form}");
    }
}

#[test]
fn every_form_continues_from_what_it_kept() {
    for &form in StateForm::ALL {
        let mut states = with_form(form);
        step(&mut states, &[0, 1, 1, 2], 1.0);
        step(&mut states, &[2, 1, 0, 0], 5.0);
        let mut other = with_form(form);
        other.set_current(StateId(0), states.current(StateId(0)).to_vec());
        other.set_collected(states.collected().to_vec());
        other.set_resets(states.resets());
        for first in [9.0, 7.0] {
            let labels = [1, 2, 2, 0];
            assert_eq!(step(&mut states, &labels, first), step(&mut other, &labels, first), "{form}");
        }
    }
}

#[test]
fn evaluation_starts_from_the_mean_of_the_rows_that_were_collected() {
    let mean = |form: StateForm, labels: &[u32]| {
        let mut states = with_form(form);
        step(&mut states, labels, 0.0);
        let states = states.for_evaluation(EvalState::Mean, &decls(), 2, 0).unwrap();
        states.current(StateId(0)).to_vec()
    };
    // Four slots of 0..4, 4..8, 8..12 and 12..16.
    for form in [StateForm::Slots, StateForm::Permuted, StateForm::Mean, StateForm::Average] {
        assert_eq!(mean(form, &[0; 4]), [6.0, 7.0, 8.0, 9.0].repeat(2), "{form}");
    }
    assert_eq!(mean(StateForm::ChannelAverage, &[0; 4]), [7.0, 8.0, 7.0, 8.0].repeat(2));
    // Class 1 has no image. Each of the other two counts once: (0 + 8)/2 and 8 are the means of slots 0 to 2, and 12 is slot 3.
    assert_eq!(mean(StateForm::Class, &[0, 0, 0, 2]), [8.0, 9.0, 10.0, 11.0].repeat(2));
}

#[test]
fn slots_of_a_class_are_grouped_and_get_its_row() {
    let found = groups(StateForm::Class, 5, &[2, 0, 2, 1, 0], 0.25, &[3, 0, 1]);
    let found: Vec<_> = found.iter().map(|group| (group.row, group.share, group.slots.clone())).collect();
    assert_eq!(found, [(0, 0.25, vec![1, 4]), (1, 1.0, vec![3]), (2, 0.25, vec![0, 2])]);
    assert_eq!(rows_of_slots(StateForm::Class, 5, &[2, 0, 2, 1, 0], [0; 2], &[]), [2, 0, 2, 1, 0]);
}

#[test]
fn a_smaller_batch_gets_rows_that_fit() {
    for form in [StateForm::Mean, StateForm::Average, StateForm::Class] {
        let mut states = with_form(form);
        step(&mut states, &[0, 1, 1, 2], 1.0);
        let all = step(&mut states, &[0, 1, 1, 2], 1.0);
        let fewer = step(&mut states, &[0, 1], 1.0);
        assert_eq!(fewer, all[..8], "{form}");
    }
}

#[test]
fn statistics_are_of_what_is_kept_and_of_the_last_step() {
    for form in [StateForm::Slots, StateForm::Mean] {
        let mut states = with_form(form);
        let labels = [0, 1];
        step(&mut states, &labels, 1.0);
        let before = step(&mut states, &labels, 5.0);
        let [of_cell] = &states.statistics(&decls()).unwrap()[..] else { panic!("one cell") };
        // The slots after the step are 5, 6, 7, 8 and 9, 10, 11, 12.
        let kept: Vec<f64> = match form {
            StateForm::Slots => (5..13).map(f64::from).collect(),
            _ => states.current(StateId(0)).iter().map(|&x| f64::from(x)).collect(),
        };
        assert_eq!(of_cell.slots, kept.len() / 4, "{form}");
        let rms = (kept.iter().map(|x| x * x).sum::<f64>() / kept.len() as f64).sqrt();
        assert!((of_cell.rms - rms).abs() < 1e-6, "{form}: {} {rms}", of_cell.rms);
        let mean = |slots: &[f32]| -> Vec<f64> { (0..4).map(|i| f64::from(slots[i] + slots[4 + i]) / 2.0).collect() };
        let (from, to) = (mean(&before), [7.0, 8.0, 9.0, 10.0]);
        let length = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let drift = length(&mut from.iter().zip(to).map(|(a, b)| a - b)) / length(&mut from.iter().copied());
        assert!((of_cell.drift - drift).abs() < 1e-6, "{form}: {} {drift}", of_cell.drift);
    }
    assert_eq!(with_form(StateForm::Slots).statistics(&decls()).unwrap()[0].slots, 0);
}
