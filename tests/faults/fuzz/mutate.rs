//! Mutates files as damage changes bytes, and as an attacker changes lengths and numbers.

use std::ops::Range;

use ptl::base::rng::{Purpose, stream};
use rand::{Rng, RngExt, seq::IndexedRandom};

use super::LONGEST;

/// Numbers that break sums and products, for fields of eight bytes; narrower fields take their lower bytes.
const EXTREMES: [u64; 13] =
    [0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX];

/// Values that are combined with a single byte by exclusive or.
const FLIPS: [u8; 3] = [0x01, 0x80, 0xff];
/// Distance between successive bytes that are changed: a prime, so that the first ones lie all over the file and later ones between them.
const STRIDE: usize = 7919;

/// Tokens that break readers of text.
const TOKENS: [&str; 18] = [
    "0",
    "-1",
    "-0",
    "1",
    "65536",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e-320",
    "1e999",
    "nan",
    "inf",
    "0.5",
    "null",
    "[[]]",
];

/// Returns input `number` of `reader`: always the same for the same seed.
pub fn mutated(reader: &str, seed: u64, number: u64, seeds: &[Vec<u8>]) -> Vec<u8> {
    // Readers get different mutations of the same number.
    let name = reader.bytes().fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let rng = &mut stream(seed, Purpose::Test, name, number);
    // Every other input changes one byte. Together, these inputs change each byte of each seed file three times.
    if number.is_multiple_of(2) {
        let step = (number / 2).wrapping_add(seed.wrapping_mul(1_000_003)) as usize;
        let (flip, place) = (FLIPS[step % FLIPS.len()], step / FLIPS.len());
        let mut bytes = seeds[place % seeds.len()].clone();
        let at = (place / seeds.len()).wrapping_mul(STRIDE) % bytes.len();
        bytes[at] ^= flip;
        return bytes;
    }
    let mut bytes = seeds.choose(rng).expect("a seed").clone();
    for _ in 0..rng.random_range(1..=4) {
        mutate(rng, &mut bytes, seeds);
        bytes.truncate(LONGEST);
    }
    bytes
}

fn mutate(rng: &mut impl Rng, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    if bytes.is_empty() {
        bytes.push(rng.random());
    }
    let at = place(rng, bytes.len());
    match rng.random_range(0..12) {
        0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => bytes[at] = *[0, 0x7f, 0x80, 0xff, b'\n', b'"', b',', b'/', rng.random()].choose(rng).unwrap(),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(range(rng, bytes.len()))),
        5 => {
            let range = range(rng, bytes.len());
            let repeated = bytes[range.clone()].repeat(1 << rng.random_range(0..8));
            bytes.splice(range, repeated.into_iter().take(LONGEST));
        }
        6 => {
            let other = seeds.choose(rng).expect("a seed");
            let (from, to) = (range(rng, other.len()), range(rng, bytes.len()));
            bytes.splice(to, other[from].iter().copied());
        }
        7 => {
            let noise: Vec<u8> = (0..rng.random_range(1..9)).map(|_| rng.random()).collect();
            bytes.splice(at..at, noise);
        }
        8 | 9 => field(rng, bytes),
        _ => token(rng, bytes),
    }
}

/// Draws a place in `len` bytes: half of the time near the start, where headers are.
fn place(rng: &mut impl Rng, len: usize) -> usize {
    let end = if rng.random() { len.min(256) } else { len };
    if end == 0 { 0 } else { rng.random_range(0..end) }
}

fn range(rng: &mut impl Rng, len: usize) -> Range<usize> {
    let start = place(rng, len);
    let longest = if rng.random() { 16 } else { len };
    start..len.min(start + rng.random_range(0..=longest))
}

/// Overwrites what may be a number of 1, 2, 4 or 8 bytes with an extreme one, or with one close to what it was. Numbers that could be
/// lengths or places in the file are preferred.
fn field(rng: &mut impl Rng, bytes: &mut [u8]) {
    let width = *[1, 2, 4, 8].choose(rng).unwrap();
    let little: bool = rng.random();
    let number = |field: &[u8]| {
        let value = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if little { field.iter().rev().fold(0, value) } else { field.iter().fold(0, value) }
    };
    let places: Vec<usize> = (0..8).map(|_| place(rng, bytes.len())).filter(|at| at + width <= bytes.len()).collect();
    let likely = |at: &&usize| (1..=bytes.len() as u64).contains(&number(&bytes[**at..**at + width]));
    let Some(&at) = places.iter().find(likely).or(places.first()) else { return };
    let field = &mut bytes[at..at + width];
    let value = match rng.random() {
        true => *EXTREMES.choose(rng).unwrap(),
        false => number(field).wrapping_add_signed(rng.random_range(-4..=4)),
    };
    field.copy_from_slice(&value.to_le_bytes()[..width]);
    if !little {
        field.reverse();
    }
}

/// Replaces a number that stands in text.
fn token(rng: &mut impl Rng, bytes: &mut Vec<u8>) {
    let part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    let start = place(rng, bytes.len());
    let Some(start) = bytes[start..].iter().position(u8::is_ascii_digit).map(|skipped| start + skipped) else { return };
    let end = start + bytes[start..].iter().take_while(|byte| part(byte)).count();
    bytes.splice(start..end, TOKENS.choose(rng).unwrap().bytes());
}
