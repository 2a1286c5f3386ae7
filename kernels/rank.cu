// Distances, neighbours, and re-ranking by k-reciprocal encoding (Zhong et al., CVPR 2017).
//
// Over n images (queries, then gallery), with D_ij = f(d_ij) / max_j f(d_ij), f(d) = d or d²:
//   N(i, k): the k nearest others of i by (distance, index), and i.   R(i, k) = {j in N(i, k): i in N(j, k)}
//   R*(i) = R(i, k1) and every R(j, k1/2), j in R(i, k1), of which more than 2/3 lies in R(i, k1)
//   V_ij = exp(-D_ij) / Σ over R*(i); then the mean of V over i and its k2 - 1 nearest.
//   J_ij = 1 - m / (2 - m), m = Σ min(V_il, V_jl); the result is (1 - λ)·J + λ·D.
// Order: for each block of rows, the products of its images with all (a matrix product), distances_from_products and row_nearest,
// from whose candidates the host chooses; k_reciprocal with k1 and with k1/2; expand_sets; encode_weights; mean_of_nearest; for
// each block of queries jaccard_overlap and blend_distances.
//
// Sets are sparse rows: `columns` [n, capacity] ascending, `weights` [n, capacity], `sizes` [n]; entries beyond a row's size are
// arbitrary.
//
// Contract. Outputs are overwritten, all buffers are distinct unless a kernel says otherwise. Features are finite. There are no
// atomics, so the bits are the same every time.

#include "common.cuh"

// A block has 8 warps, and a warp takes a row.
DEVICE int warp_row() { return blockIdx.x * 8 + threadIdx.x / 32; }

// d_ij = max(0, offset_i + offset_j - 2·x_i·x_j - (length_i - length_j)²)·scale_i·scale_j, from the product x_i·x_j. With the
// squared lengths of the rows as offsets, lengths 0 and scales 1, this is the squared distance. It also gives 2 - 2 cos of rows
// from which a common centre was subtracted: with |a| the length of row a before that, the lengths are |a| minus any constant and
// the scales 1/|a|.
DEVICE float base_distance(float product, float offset_i, float offset_j, float length_i, float length_j, float scale_i, float scale_j) {
    float apart = length_i - length_j, d = offset_i + offset_j - 2.0f * product - apart * apart;
    return d < 0.0f ? 0.0f : d * scale_i * scale_j;
}

// Turns products into distances in place. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    distances_from_products(float* __restrict__ block,  // [rows, columns]
                            const float* __restrict__ row_offset, const float* __restrict__ row_length,        // [rows] each
                            const float* __restrict__ row_scale,                                               // [rows]
                            const float* __restrict__ column_offset, const float* __restrict__ column_length,  // [columns] each
                            const float* __restrict__ column_scale,                                            // [columns]
                            long long rows, int columns) {
    for_each_in_rows(rows, columns, [=](long long row, int column) {
        long long i = row * columns + column;
        block[i] = base_distance(block[i], row_offset[row], column_offset[column], row_length[row], column_length[column],
                                 row_scale[row], column_scale[column]);
    });
}

// A key that sorts by (distance, index): distances are not negative, so their bits sort as they do.
typedef unsigned long long Key;
const Key NO_KEY = ~0ull;

// Finds the k nearest columns of each row by (distance, index), nearest first; (-1, ∞) where there are fewer. The row's own column,
// first_own + row, is left out (first_own < 0: there is none). With farthest = 1, finds the k farthest, farthest first.
// launch: grid (rows)
extern "C" __global__ void __launch_bounds__(256)
    row_nearest(const float* __restrict__ block,  // [rows, columns]
                int* __restrict__ nearest,        // [rows, k]
                float* __restrict__ distances,    // [rows, k]
                int columns, int first_own, int k, int farthest) {
    SHARED(Key, keys, [256]);
    const float* row = block + (long long)blockIdx.x * columns;
    int own = first_own < 0 ? -1 : first_own + (int)blockIdx.x;
    // Inverted bits sort the other way.
    uint32_t turn = farthest ? ~0u : 0u;
    // Finds this thread's nearest column after `last`; a thread owns every 256th column.
    auto next_key = [&](Key last, bool any) {
        Key best = NO_KEY;
        for (int j = threadIdx.x; j < columns; j += 256) {
            if (j == own) continue;
            Key key = (Key)(float_to_bits(row[j]) ^ turn) << 32 | (unsigned)j;
            if (key < best && (any || key > last)) best = key;
        }
        return best;
    };
    Key mine = next_key(0, true);
    for (int place = 0; place < k; place++) {
        keys[threadIdx.x] = mine;
        __syncthreads();
        for (int half = 128; half; half /= 2) {
            if ((int)threadIdx.x < half) keys[threadIdx.x] = min(keys[threadIdx.x], keys[threadIdx.x + half]);
            __syncthreads();
        }
        Key best = keys[0];
        __syncthreads();
        // Only the thread whose column was taken searches again.
        if (best == mine && best != NO_KEY) mine = next_key(best, false);
        if (threadIdx.x == 0) {
            long long at = (long long)blockIdx.x * k + place;
            nearest[at] = best == NO_KEY ? -1 : (int)(unsigned)best;
            distances[at] = best == NO_KEY ? INFINITY : bits_to_float((uint32_t)(best >> 32) ^ turn);
        }
    }
}

// The list of this warp in dynamic shared memory.
DEVICE int* warp_list(unsigned char* shared, int length) { return (int*)shared + (long long)(threadIdx.x / 32) * length; }

// Finds R(i, k), ascending. launch: grid (ceil(n / 8)), dynamic shared memory 32·(k + 1)
extern "C" __global__ void __launch_bounds__(256)
    k_reciprocal(const int* __restrict__ nearest,  // [n, count]
                 int* __restrict__ columns,        // [n, k + 1]
                 int* __restrict__ sizes,          // [n]
                 int n, int count, int k) {
    DYNAMIC_SHARED(shared);
    int* list = warp_list(shared, k + 1);
    int i = warp_row(), lane = threadIdx.x % 32, size = 1;
    if (i >= n) return;
    if (lane == 0) list[0] = i;
    int reach = min(k, count);
    for (int first = 0; first < reach; first += 32) {
        int j = first + lane < reach ? nearest[(long long)i * count + first + lane] : -1;
        bool member = false;
        for (int other = 0; j >= 0 && other < reach; other++) member = member || nearest[(long long)j * count + other] == i;
        unsigned members = vote(member);
        if (member) list[size + count_bits(members & ((1u << lane) - 1))] = j;
        size += count_bits(members);
    }
    __syncwarp();
    // All are different, so the place of each is the number of smaller ones.
    for (int a = lane; a < size; a += 32) {
        int place = 0;
        for (int b = 0; b < size; b++) place += list[b] < list[a];
        columns[(long long)i * (k + 1) + place] = list[a];
    }
    if (lane == 0) sizes[i] = size;
}

DEVICE bool contains(const int* ascending, int size, int value) {
    int low = 0, high = size;
    while (low < high) {
        int middle = (low + high) / 2;
        if (ascending[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low < size && ascending[low] == value;
}

// Finds R*(i), ascending, from R(·, k1) and R(·, half), where half is k1/2. capacity = (k1 + 1)·(half + 2) always suffices.
// launch: grid (ceil(n / 8)), dynamic shared memory 32·capacity
extern "C" __global__ void __launch_bounds__(256)
    expand_sets(const int* __restrict__ sets, const int* __restrict__ set_sizes,    // [n, k1 + 1], [n]
                const int* __restrict__ halves, const int* __restrict__ half_sizes,  // [n, half + 1], [n]
                int* __restrict__ columns,                                           // [n, capacity]
                int* __restrict__ sizes,                                             // [n]
                int n, int k1, int half, int capacity) {
    DYNAMIC_SHARED(shared);
    int* list = warp_list(shared, capacity);
    int i = warp_row(), lane = threadIdx.x % 32;
    if (i >= n) return;
    const int* set = sets + (long long)i * (k1 + 1);
    int set_size = set_sizes[i], size = set_size;
    for (int a = lane; a < set_size; a += 32) list[a] = set[a];
    for (int a = 0; a < set_size; a++) {
        const int* candidate = halves + (long long)set[a] * (half + 1);
        int candidate_size = half_sizes[set[a]], common = 0;
        for (int b = lane; b < candidate_size; b += 32) common += contains(set, set_size, candidate[b]);
        common = warp_sum(common);
        if (3 * common > 2 * candidate_size) {
            for (int b = lane; b < candidate_size; b += 32) list[size + b] = candidate[b];
            size += candidate_size;
        }
    }
    __syncwarp();
    // Of equal ones only the first counts; its place is the number of different smaller ones.
    auto is_first = [&](int a) {
        for (int b = 0; b < a; b++)
            if (list[b] == list[a]) return false;
        return true;
    };
    int different = 0;
    for (int a = lane; a < size; a += 32) {
        if (!is_first(a)) continue;
        int place = 0;
        for (int b = 0; b < size; b++)
            if (list[b] < list[a]) place += is_first(b);
        columns[(long long)i * capacity + place] = list[a];
        different++;
    }
    different = warp_sum(different);
    if (lane == 0) sizes[i] = different;
}

// Computes V before averaging. The distances of neighbours are given; those of the images that expand_sets added are computed from the
// features.
// launch: grid (n)
extern "C" __global__ void __launch_bounds__(256, 4)
    encode_weights(const int* __restrict__ columns, const int* __restrict__ sizes,    // [n, capacity], [n]
                   const int* __restrict__ nearest, const float* __restrict__ distances,  // [n, count] each
                   const float* __restrict__ largest,                                  // [n]
                   const float* __restrict__ features,                                 // [n, dim]
                   const float* __restrict__ offset, const float* __restrict__ length,  // [n] each
                   const float* __restrict__ scale,                                    // [n]
                   float* __restrict__ weights,                                        // [n, capacity]
                   int count, int capacity, int dim, int square) {
    int i = blockIdx.x, lane = threadIdx.x % 32, size = sizes[i];
    float* row = weights + (long long)i * capacity;
    for (int a = threadIdx.x / 32; a < size; a += 8) {
        int j = columns[(long long)i * capacity + a], known = -1;
        for (int first = 0; first < count && known < 0; first += 32) {
            bool hit = first + lane < count && nearest[(long long)i * count + first + lane] == j;
            unsigned hits = vote(hit);
            // At most one bit is set.
            if (hits) known = first + count_bits(hits - 1);
        }
        float d;
        if (known >= 0) {
            d = distances[(long long)i * count + known];
        } else {
            const float *x = features + (long long)i * dim, *y = features + (long long)j * dim;
            float product = 0.0f;
            for (int k = lane; k < dim; k += 32) product = fmaf(x[k], y[k], product);
            d = base_distance(warp_sum(product), offset[i], offset[j], length[i], length[j], scale[i], scale[j]);
        }
        float share = largest[i] > 0.0f ? d / largest[i] : 0.0f;
        if (lane == 0) row[a] = expf(-(square ? share * share : share));
    }
    __syncthreads();
    float sum = 0.0f;
    for (int a = threadIdx.x; a < size; a += 256) sum += row[a];
    sum = block_sum(sum);
    for (int a = threadIdx.x; a < size; a += 256) row[a] /= sum;
}

// Computes the mean of V over i and its k2 - 1 nearest. out_capacity = k2·capacity always suffices.
// launch: grid (n), dynamic shared memory 8·k2·capacity
extern "C" __global__ void __launch_bounds__(256)
    mean_of_nearest(const int* __restrict__ columns, const float* __restrict__ weights,  // [n, capacity] each
                    const int* __restrict__ sizes,                                       // [n]
                    const int* __restrict__ nearest,                                     // [n, count]
                    int* __restrict__ out_columns, float* __restrict__ out_weights,      // [n, out_capacity] each
                    int* __restrict__ out_sizes,                                         // [n]
                    int count, int capacity, int k2, int out_capacity) {
    DYNAMIC_SHARED(shared);
    int* list = (int*)shared;
    float* values = (float*)(list + k2 * capacity);
    int i = blockIdx.x, length = 0, rows = 0;
    for (int near = 0; near < k2 && near <= count; near++) {
        int j = near == 0 ? i : nearest[(long long)i * count + near - 1];
        if (j < 0) break;
        rows++;
        for (int a = threadIdx.x; a < sizes[j]; a += 256) {
            list[length + a] = columns[(long long)j * capacity + a];
            values[length + a] = weights[(long long)j * capacity + a];
        }
        length += sizes[j];
    }
    __syncthreads();
    auto is_first = [&](int a) {
        for (int b = 0; b < a; b++)
            if (list[b] == list[a]) return false;
        return true;
    };
    int different = 0;
    for (int a = threadIdx.x; a < length; a += 256) {
        if (!is_first(a)) continue;
        different++;
        int place = 0;
        float sum = 0.0f;
        // The weights of a column are added in the order of the neighbours.
        for (int b = 0; b < length; b++) {
            if (list[b] == list[a]) sum += values[b];
            if (list[b] < list[a]) place += is_first(b);
        }
        out_columns[(long long)i * out_capacity + place] = list[a];
        out_weights[(long long)i * out_capacity + place] = sum / (float)rows;
    }
    different = block_sum(different);
    if (threadIdx.x == 0) out_sizes[i] = different;
}

// overlap[q][g] = Σ over columns of min(V of query first_query + q, V of gallery image first_gallery + g). A block writes its
// query's row as a dense row into shared memory, `window` columns at a time, and its warps go through the gallery's rows.
// launch: grid (queries), dynamic shared memory 4·window
extern "C" __global__ void __launch_bounds__(256)
    jaccard_overlap(const int* __restrict__ columns, const float* __restrict__ weights,  // [n, capacity] each
                    const int* __restrict__ sizes,                                       // [n]
                    float* __restrict__ overlap,                                         // [queries, gallery]
                    int first_query, int first_gallery, int gallery, int n, int capacity, int window) {
    DYNAMIC_SHARED(shared);
    float* dense = (float*)shared;
    long long query = first_query + blockIdx.x;
    float* out = overlap + (long long)blockIdx.x * gallery;
    int lane = threadIdx.x % 32;
    for (int first = 0; first < n; first += window) {
        for (int c = threadIdx.x; c < window; c += 256) dense[c] = 0.0f;
        __syncthreads();
        for (int a = threadIdx.x; a < sizes[query]; a += 256) {
            int c = columns[query * capacity + a] - first;
            if ((unsigned)c < (unsigned)window) dense[c] = weights[query * capacity + a];
        }
        __syncthreads();
        for (int g = threadIdx.x / 32; g < gallery; g += 8) {
            long long row = (long long)(first_gallery + g) * capacity;
            float sum = 0.0f;
            for (int a = lane; a < sizes[first_gallery + g]; a += 32) {
                int c = columns[row + a] - first;
                if ((unsigned)c < (unsigned)window) sum += fminf(dense[c], weights[row + a]);
            }
            sum = warp_sum(sum);
            if (lane == 0) out[g] = first == 0 ? sum : out[g] + sum;
        }
        __syncthreads();
    }
}

// Turns plain distances into final ones in place. launch: any grid of one dimension
extern "C" __global__ void __launch_bounds__(256)
    blend_distances(float* __restrict__ block,          // [queries, gallery]
                    const float* __restrict__ overlap,  // [queries, gallery]
                    const float* __restrict__ largest,  // [queries]
                    long long queries, int gallery, float lambda, int square) {
    for_each_in_rows(queries, gallery, [=](long long query, int column) {
        long long i = query * gallery + column;
        float most = largest[query], m = overlap[i];
        float share = most > 0.0f ? block[i] / most : 0.0f;
        block[i] = (1.0f - lambda) * (1.0f - m / (2.0f - m)) + lambda * (square ? share * share : share);
    });
}
