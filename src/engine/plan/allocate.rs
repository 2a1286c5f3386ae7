//! Finds places in one arena for blocks that are alive for a time only.

/// The length and the lifetime of a block; `from` and `to` are included.
pub(super) struct Request {
    pub len: usize,
    pub from: usize,
    pub to: usize,
}

/// Returns an offset for each request, and the arena's length. Places the largest request first, each in the lowest gap that is free during
/// its lifetime. `footprint(len)` is what a block of `len` words takes.
pub(super) fn allocate(requests: &[Request], footprint: impl Fn(usize) -> usize) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(requests[i].len), requests[i].from, i));
    let mut offsets = vec![0; requests.len()];
    let mut placed: Vec<usize> = Vec::new(); // by offset
    let mut arena_len = 0;
    for i in order {
        let request = &requests[i];
        let len = footprint(request.len);
        let mut offset = 0;
        for &other in &placed {
            let o = &requests[other];
            if o.to < request.from || request.to < o.from {
                continue;
            }
            if offset + len <= offsets[other] {
                break;
            }
            offset = offset.max(offsets[other] + footprint(o.len));
        }
        offsets[i] = offset;
        arena_len = arena_len.max(offset + len);
        let position = placed.partition_point(|&p| offsets[p] <= offset);
        placed.insert(position, i);
    }
    (offsets, arena_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, stream};
    use rand::RngExt;

    fn lifetimes(seed: u64, count: usize) -> Vec<Request> {
        let mut rng = stream(seed, Purpose::Test, 0, 0);
        (0..count)
            .map(|_| {
                let from = rng.random_range(0..40);
                Request { len: rng.random_range(1..200), from, to: from + rng.random_range(0..20) }
            })
            .collect()
    }

    #[test]
    fn blocks_alive_together_never_overlap_and_memory_is_reused() {
        for seed in 0..20 {
            let requests = lifetimes(seed, 60);
            let (offsets, arena_len) = allocate(&requests, |len| len.next_multiple_of(16));
            for (i, a) in requests.iter().enumerate() {
                assert!(offsets[i] + a.len <= arena_len);
                for (j, b) in requests.iter().enumerate().skip(i + 1) {
                    let together = a.from <= b.to && b.from <= a.to;
                    let overlap = offsets[i] < offsets[j] + b.len && offsets[j] < offsets[i] + a.len;
                    assert!(!(together && overlap), "seed {seed}: {i} and {j}");
                }
            }
            assert!(arena_len < requests.iter().map(|r| r.len).sum());
        }
    }
}
