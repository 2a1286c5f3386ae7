#include <algorithm>
#include <map>
#include <set>

#include "harness.h"
using namespace test;

CASE(nearest_with_ties) {
    // There are few different distances; one case leaves out own columns, the other asks for more columns than there are.
    const int rows = 3, columns = 300;
    Floats block(rows * columns);
    for (float& v : block.data) v = (float)below(4);
    for (int first_own : {-1, 40}) {
        for (int k : {7, -7, 305, -305}) {
            int farthest = k < 0;
            k = std::abs(k);
            Ints nearest(rows * k);
            Floats distances(rows * k);
            RUN(row_nearest, (Grid{rows}), block, nearest, distances, columns, first_own, k, farthest);
            Doubles want, want_distances;
            for (int r = 0; r < rows; r++) {
                std::vector<std::pair<float, int>> order;
                for (int j = 0; j < columns; j++)
                    if (first_own < 0 || j != first_own + r) order.push_back({farthest ? -block[r * columns + j] : block[r * columns + j], j});
                std::sort(order.begin(), order.end());
                if (farthest)
                    for (auto& item : order) item.first = std::fabs(item.first);
                for (int p = 0; p < k; p++) {
                    want.push_back(p < (int)order.size() ? order[p].second : -1);
                    want_distances.push_back(p < (int)order.size() ? order[p].first : INFINITY);
                }
            }
            expect_exact("nearest", nearest, want);
            expect_exact("distances", distances, want_distances);
        }
    }
}

// The distances themselves, from products in f32.
static Floats products(const Floats& x, int n, int dim) {
    Floats out((size_t)n * n);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double dot = 0;
            for (int k = 0; k < dim; k++) dot += value(x[i * dim + k]) * value(x[j * dim + k]);
            out[i * n + j] = (float)dot;
        }
    return out;
}

// What distances_from_products needs about rows; 10 is subtracted from all lengths.
static void row_terms(const Floats& x, int n, int dim, bool cosine, Floats& offset, Floats& length, Floats& scale) {
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int k = 0; k < dim; k++) sum += value(x[i * dim + k]) * value(x[i * dim + k]);
        offset[i] = (float)sum;
        length[i] = cosine ? (float)(std::sqrt(sum) - 10) : 0.0f;
        scale[i] = cosine ? (float)(1 / std::sqrt(sum)) : 1.0f;
    }
}

static void check_rerank(int queries, int gallery, int k1, int k2, bool cosine, bool square, int window) {
    const int n = queries + gallery, dim = 9, half = (int)std::nearbyint(k1 / 2.0), count = std::max(k1, k2 - 1);
    // Two of three images are in clusters, so that expand_sets adds images.
    Floats x = random_floats((size_t)n * dim);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < dim; k++)
            if (i % 3) x[i * dim + k] = 0.3f * x[i * dim + k] + (k == i % 5 ? 2.0f : 0.0f);
    Floats offset(n), length(n), scale(n), block = products(x, n, dim), largest(n), distances((size_t)n * count);
    Ints nearest((size_t)n * count);
    row_terms(x, n, dim, cosine, offset, length, scale);
    RUN(distances_from_products, (Grid{2}), block, offset, length, scale, offset, length, scale, n, n);
    Doubles d;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double ii = 0, jj = 0, ij = 0;
            for (int k = 0; k < dim; k++) {
                double a = x[i * dim + k], b = x[j * dim + k];
                ii += a * a, jj += b * b, ij += a * b;
            }
            d.push_back(std::fmax(0, cosine ? 2 - 2 * ij / std::sqrt(ii * jj) : ii + jj - 2 * ij));
        }
    expect("base distances", block, d, 1e-5, 1e-5);
    RUN(row_nearest, (Grid{(unsigned)n}), block, nearest, distances, n, 0, count, 0);
    for (int i = 0; i < n; i++) largest[i] = *std::max_element(&block[i * n], &block[i * n] + n);

    // From here on the reference uses the neighbours that were found.
    auto reciprocal = [&](int i, int k) {
        auto near = [&](int a, int b) {
            for (int p = 0; p < std::min(k, count); p++)
                if (nearest[a * count + p] == b) return true;
            return false;
        };
        std::set<int> out{i};
        for (int j = 0; j < n; j++)
            if (near(i, j) && near(j, i)) out.insert(j);
        return out;
    };
    std::vector<std::map<int, double>> v(n), mean(n);
    int expanded_rows = 0;
    for (int i = 0; i < n; i++) {
        std::set<int> set = reciprocal(i, k1), all = set;
        for (int j : set) {
            std::set<int> candidate = reciprocal(j, half);
            int common = 0;
            for (int c : candidate) common += (int)set.count(c);
            if (3 * common > 2 * (int)candidate.size()) all.insert(candidate.begin(), candidate.end());
        }
        expanded_rows += all.size() > set.size();
        double sum = 0;
        for (int j : all) {
            double share = largest[i] > 0 ? d[i * n + j] / largest[i] : 0;
            sum += v[i][j] = std::exp(-(square ? share * share : share));
        }
        for (auto& entry : v[i]) entry.second /= sum;
    }
    for (int i = 0; i < n; i++) {
        int rows = std::min(k2, n);
        for (int p = 0; p < rows; p++)
            for (auto& entry : v[p == 0 ? i : nearest[i * count + p - 1]]) mean[i][entry.first] += entry.second / rows;
    }
    if (n > 20) compare("a case where no set is expanded proves little", 0, expanded_rows > 0, 1, 0, 0);

    int capacity = (k1 + 1) * (half + 2), wide = k2 * capacity;
    Ints sets((size_t)n * (k1 + 1)), set_sizes(n), halves((size_t)n * (half + 1)), half_sizes(n);
    Ints columns((size_t)n * capacity), sizes(n), mean_columns((size_t)n * wide), mean_sizes(n);
    Floats weights((size_t)n * capacity), mean_weights((size_t)n * wide);
    Grid warps{blocks(n, 8)}, rows{(unsigned)n};
    RUN_SHARED(k_reciprocal, warps, 32 * (k1 + 1), nearest, sets, set_sizes, n, count, k1);
    RUN_SHARED(k_reciprocal, warps, 32 * (half + 1), nearest, halves, half_sizes, n, count, half);
    RUN_SHARED(expand_sets, warps, 32 * capacity, sets, set_sizes, halves, half_sizes, columns, sizes, n, k1, half, capacity);
    RUN(encode_weights, rows, columns, sizes, nearest, distances, largest, x, offset, length, scale, weights, count, capacity, dim, square);
    RUN_SHARED(mean_of_nearest, rows, 8 * k2 * capacity, columns, weights, sizes, nearest, mean_columns, mean_weights, mean_sizes, count,
               capacity, k2, wide);
    auto check_rows = [&](const char* what, const std::vector<std::map<int, double>>& want, Ints& got_columns, Floats& got, Ints& got_sizes, int pitch) {
        Doubles want_sizes;
        for (auto& row : want) want_sizes.push_back((double)row.size());
        expect_exact(what, got_sizes, want_sizes);
        for (int i = 0; i < n; i++) {
            int a = 0;
            for (auto& entry : want[i]) {
                compare(what, i, got_columns[(size_t)i * pitch + a], entry.first, 0, 0);
                compare(what, i, got[(size_t)i * pitch + a], entry.second, 1e-6, 1e-5);
                a++;
            }
        }
    };
    check_rows("V", v, columns, weights, sizes, capacity);
    check_rows("mean V", mean, mean_columns, mean_weights, mean_sizes, wide);

    Floats overlap((size_t)queries * gallery), blended((size_t)queries * gallery);
    RUN_SHARED(jaccard_overlap, (Grid{(unsigned)queries}), 4 * window, mean_columns, mean_weights, mean_sizes, overlap, 0, queries, gallery, n, wide,
               window);
    Doubles want_overlap, want;
    for (int q = 0; q < queries; q++)
        for (int g = 0; g < gallery; g++) {
            double m = 0;
            for (auto& entry : mean[q]) {
                auto other = mean[queries + g].find(entry.first);
                if (other != mean[queries + g].end()) m += std::fmin(entry.second, other->second);
            }
            want_overlap.push_back(m);
            blended[q * gallery + g] = block[q * n + queries + g];
            double share = largest[q] > 0 ? d[q * n + queries + g] / largest[q] : 0;
            want.push_back(0.7 * (1 - m / (2 - m)) + 0.3 * (square ? share * share : share));
        }
    expect("overlap", overlap, want_overlap, 1e-6, 1e-5);
    RUN(blend_distances, (Grid{1}), blended, overlap, largest, queries, gallery, 0.3f, square);
    expect("final distances", blended, want, 1e-5, 1e-5);
}

CASE(rerank) {
    check_rerank(12, 31, 6, 3, true, false, 43);
    check_rerank(9, 40, 7, 1, false, true, 16);
    check_rerank(20, 60, 34, 4, false, false, 50);  // more than a warp of neighbours
    check_rerank(1, 3, 20, 6, true, false, 4);      // fewer images than neighbours
}

CASE(euclidean_distances) {
    Floats x{3, 4, 0, 0, 3, 4, 0, 4}, offset(4), length(4), scale(4), block = products(x, 4, 2);
    row_terms(x, 4, 2, false, offset, length, scale);
    RUN(distances_from_products, (Grid{1}), block, offset, length, scale, offset, length, scale, 4, 4);
    expect("squared", block, {0, 25, 0, 9, 25, 0, 25, 16, 0, 25, 0, 9, 9, 16, 9, 0}, 1e-6, 1e-6);
    Floats cosine = products(x, 4, 2);
    row_terms(x, 4, 2, true, offset, length, scale);
    scale[1] = 0;
    RUN(distances_from_products, (Grid{1}), cosine, offset, length, scale, offset, length, scale, 4, 4);
    expect("2 - 2 cos", cosine, {0, 0, 0, 0.4, 0, 0, 0, 0, 0, 0, 0, 0.4, 0.4, 0, 0.4, 0}, 1e-6, 1e-6);
}
