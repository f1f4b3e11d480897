// Program -> answers. Compiled once for each instruction set; nothing here may depend on the number of rows, on their
// order, or on the width of a vector: each output is a sum in one fixed order.
#include "program.h"

#ifdef __FAST_MATH__
#error "the same bits everywhere need IEEE arithmetic: build without -ffast-math"
#endif

#include <cmath>
#include <utility>

#include "math.h"

#if defined(STEPSTREAM_V4)
#define STEPSTREAM_KERNEL kernel_v4
#define STEPSTREAM_NAME "v4"
#elif defined(STEPSTREAM_V3)
#define STEPSTREAM_KERNEL kernel_v3
#define STEPSTREAM_NAME "v3"
#else
#define STEPSTREAM_KERNEL kernel_base
#define STEPSTREAM_NAME "base"
#endif

namespace stepstream {
namespace {

constexpr int VECTORS = BLOCK / W;  // in a block
constexpr int TILE = 6;             // rows that share a weight in registers
// blocks side by side: enough sums in flight to hide the latency of one, no more than the registers hold
#if defined(STEPSTREAM_V4)
constexpr int WIDE[TILE + 1] = {0, 8, 4, 4, 4, 4, 4};
#elif defined(STEPSTREAM_V3)
constexpr int WIDE[TILE + 1] = {0, 4, 2, 1, 1, 1, 1};
#elif defined(__aarch64__)
constexpr int WIDE[TILE + 1] = {0, 4, 2, 1, 1, 1, 1};
#else
constexpr int WIDE[TILE + 1] = {0, 2, 1, 1, 1, 1, 1};
#endif

struct Part {
    const float* x;
    int64_t k;
    const float* w;
};

// N vectors that stay in registers, where GCC keeps an array in memory between two loops
template <int N>
struct Vectors {
    V first;
    Vectors<N - 1> rest;
};
template <>
struct Vectors<0> {};

template <int N, class F>
inline __attribute__((always_inline)) void number(Vectors<N>& v, F f, int i = 0) {
    if constexpr (N > 0) {
        f(v.first, i);
        number(v.rest, f, i + 1);
    }
}

template <int R, int B>
inline __attribute__((always_inline)) void multiply(Vectors<R * B * VECTORS>& sums, const float* x, int64_t stride,
                                                    int64_t k, const float* w) {
    constexpr int C = B * VECTORS;
#pragma GCC unroll 4
    for (int64_t i = 0; i < k; i++) {
        V column[C];
        for (int c = 0; c < C; c++) column[c] = load(w + (c / VECTORS * k + i) * BLOCK + c % VECTORS * W);
        number(sums, [&](V& sum, int n) __attribute__((always_inline)) {
            sum = fma(all(x[n / C * stride + i]), column[n % C], sum);
        });
    }
}

// R rows, B blocks of outputs, all inputs
template <int R, int B>
inline __attribute__((always_inline)) void tile(float* out, int64_t stride, const float* bias, const Part (&parts)[2]) {
    constexpr int C = B * VECTORS;
    Vectors<R * C> sums;
    number(sums, [&](V& sum, int n) __attribute__((always_inline)) { sum = bias ? load(bias + n % C * W) : V{}; });
    multiply<R, B>(sums, parts[0].x, stride, parts[0].k, parts[0].w);
    multiply<R, B>(sums, parts[1].x, stride, parts[1].k, parts[1].w);
    number(sums, [&](V& sum, int n) __attribute__((always_inline)) { store(out + n / C * stride + n % C * W, sum); });
}

template <int R, int B>
__attribute__((noinline)) void tiles(int64_t rows, float* out, int64_t stride, const float* bias,
                                     const Part (&parts)[2]) {
    Part own[2] = {parts[0], parts[1]};
    for (; rows >= R; rows -= R) {
        tile<R, B>(out, stride, bias, own);
        out += R * stride;
        for (Part& p : own) p.x += R * stride;
    }
    if constexpr (R > 1) {
        if (rows) tiles<R - 1, B>(rows, out, stride, bias, own);
    }
}

// all rows, all blocks: the weights of one block stay in the nearest cache while the rows pass
template <int R, int B>
void columns(int64_t rows, float* out, int64_t stride, const float* bias, const Part (&parts)[2], int64_t blocks) {
    Part own[2] = {parts[0], parts[1]};
    for (; blocks >= B; blocks -= B) {
        tiles<R, B>(rows, out, stride, bias, own);
        out += B * BLOCK;
        if (bias) bias += B * BLOCK;
        for (Part& p : own) p.w += B * p.k * BLOCK;
    }
    if constexpr (B > 1) {
        if (blocks) columns<R, B / 2>(rows, out, stride, bias, own, blocks);
    }
}

void gemm(const Instruction& in, const Program& program, float* s, int64_t rows) {
    const int64_t* a = in.a;
    const float* w = program.weights;
    for (int64_t p = 0; p < a[3]; p++) {
        const Part parts[2] = {{s + a[6] + p * a[4], a[7], w + a[8]}, {s + a[9], a[10], w + a[11]}};
        float* out = s + a[0] + p * a[5];
        const float* bias = a[2] < 0 ? nullptr : w + a[2];
        if (rows == 1)
            columns<1, WIDE[1]>(rows, out, program.scratch, bias, parts, a[1]);
        else if (rows == 2)
            columns<2, WIDE[2]>(rows, out, program.scratch, bias, parts, a[1]);
        else
            columns<TILE, WIDE[TILE]>(rows, out, program.scratch, bias, parts, a[1]);
    }
}

// activations of single values

template <class F>
inline __attribute__((always_inline)) void each(const float* x, float* out, int64_t n, F f) {
    for (int64_t i = 0; i < n; i += W) store(out + i, f(load(x + i)));
}

inline V clip(V x, float low, float high) { return at_most(at_least(x, all(low)), all(high)); }
inline V hard_sigmoid_(V x) { return clip(x / 6.0f + 0.5f, 0.0f, 1.0f); }
inline V elu_(V x, float alpha) { return x > 0.0f ? x : alpha * expm1_(at_most(x, all(0.0f))); }

// The sum over n values: sixteen sums side by side, then a tree; the same for every width.
template <class F>
inline float sum(const float* x, int64_t n, F f) {
    float part[BLOCK] = {};
    for (int64_t i = 0; i < n; i++) part[i % BLOCK] += f(x[i]);
    for (int half = BLOCK / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

void softmax(const float* x, float* out, int64_t n, bool logarithm) {
    float top = x[0];
    for (int64_t i = 1; i < n; i++) top = x[i] > top || x[i] != x[i] ? x[i] : top;
    float total[BLOCK] = {};
    for (int64_t i = 0; i < n; i += W) {
        float e[W];
        const V shifted = load(x + i) - top;
        store(e, exp_(shifted));
        store(out + i, logarithm ? shifted : load(e));
        for (int j = 0; j < W && i + j < n; j++) total[(i + j) % BLOCK] += e[j];
    }
    for (int half = BLOCK / 2; half; half /= 2)
        for (int i = 0; i < half; i++) total[i] += total[i + half];
    const V all_of_it = all(total[0]), log = log_(all_of_it);
    for (int64_t i = 0; i < n; i += W) store(out + i, logarithm ? load(out + i) - log : load(out + i) / all_of_it);
}

// Keras' form: the threshold takes the sum of all partial sums
void sparsemax(const float* x, float* out, int64_t n) {
    for (int64_t i = 0; i < n; i++) {  // sorted downwards, by insertion
        int64_t j = i;
        for (; j > 0 && out[j - 1] < x[i]; j--) out[j] = out[j - 1];
        out[j] = x[i];
    }
    float partial = 0, total = 0, k = 0;
    for (int64_t i = 0; i < n; i++) {
        partial += out[i];
        if (out[i] - (partial - 1) / (float)(i + 1) > 0) {
            total += partial;
            k += 1;
        }
    }
    const float tau = (total - 1) / (k > 1 ? k : 1);
    for (int64_t i = 0; i < n; i += W) store(out + i, at_least(load(x + i) - tau, all(0.0f)));
}

void activate(Activation kind, const float* f, const float* x, float* out, int64_t n, int64_t group, int64_t rows,
              int64_t stride) {
    const auto over = [&](auto function) __attribute__((always_inline)) {
        for (int64_t r = 0; r < rows; r++) each(x + r * stride, out + r * stride, n, function);
    };
    const auto groups = [&](auto function) __attribute__((always_inline)) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t g = r * stride; g < r * stride + n; g += group) function(x + g, out + g);
    };
    switch (kind) {
        case Activation::linear: return over([](V v) { return v; });
        case Activation::tanh: return over([](V v) { return tanh_(v); });
        case Activation::sigmoid: return over([](V v) { return sigmoid_(v); });
        case Activation::sparse_sigmoid:
            return over([](V v) { return clip(0.5f * (v + 1.0f), 0.0f, 1.0f); });
        case Activation::hard_sigmoid: return over([](V v) { return hard_sigmoid_(v); });
        case Activation::hard_sigmoid_02:
            return over([](V v) { return clip(0.2f * v + 0.5f, 0.0f, 1.0f); });
        case Activation::relu: {  // slope, maximum, threshold
            const float slope = f[0], top = f[1], from = f[2];
            return over([=](V v) {
                return at_most(v >= from ? v : slope * (v - from), all(top));
            });
        }
        case Activation::leaky_relu: {
            const float slope = f[0];
            return over([=](V v) { return v >= 0.0f ? v : slope * v; });
        }
        case Activation::thresholded_relu: {
            const float theta = f[0];
            return over([=](V v) { return v * (v > theta ? all(1.0f) : all(0.0f)); });
        }
        case Activation::elu: {
            const float alpha = f[0];
            return over([=](V v) { return elu_(v, alpha); });
        }
        case Activation::celu: {
            const float alpha = f[0];
            return over([=](V v) {
                const V x = at_most(v, all(0.0f)) / alpha;
                return at_least(v, all(0.0f)) + alpha * (x > 0.0f ? exp_(x) - 1.0f : expm1_(x));
            });
        }
        case Activation::selu:
            return over([](V v) { return 1.0507009873554805f * elu_(v, 1.6732632423543772f); });
        case Activation::softplus: return over([](V v) { return softplus_(v); });
        case Activation::log_sigmoid: return over([](V v) { return -softplus_(-v); });
        case Activation::mish: return over([](V v) { return v * tanh_(softplus_(v)); });
        case Activation::softsign: return over([](V v) { return v / (1.0f + magnitude(v)); });
        case Activation::silu: return over([](V v) { return v / (1.0f + exp_(-v)); });
        case Activation::hard_silu: return over([](V v) { return v * hard_sigmoid_(v); });
        case Activation::gelu:
            return over([](V v) { return 0.5f * v * (1.0f + erf_(v * 0.7071067811865476f)); });
        case Activation::gelu_tanh:
            return over([](V v) {
                return v / (1.0f + exp_(-1.5957691216057308f * fma(0.044715f * v * v, v, v)));
            });
        case Activation::squareplus: {
            const float b = f[0];
            return over([=](V v) {
                const V d = root(fma(v, v, all(b)));  // for v < 0 the sum would cancel
                const V y = 0.5f * (v < 0.0f ? b / (d - v) : v + d);
                return magnitude(v) > 1e18f ? at_least(v, all(0.0f)) : y;  // whose square is no float
            });
        }
        case Activation::sparse_plus:
            return over([](V v) {
                const V middle = 0.25f * (v + 1.0f) * (v + 1.0f);
                return v <= -1.0f ? all(0.0f) : (v < 1.0f ? middle : v);
            });
        case Activation::soft_shrink: {
            const float t = f[0];
            return over([=](V v) { return v - clip(v, -t, t); });
        }
        case Activation::hard_shrink: {
            const float t = f[0];
            return over([=](V v) { return v * (magnitude(v) > t ? all(1.0f) : all(0.0f)); });
        }
        case Activation::tanh_shrink: return over([](V v) { return v - tanh_(v); });
        case Activation::hard_tanh: return over([](V v) { return clip(v, -1.0f, 1.0f); });
        case Activation::exponential: return over([](V v) { return exp_(v); });
        case Activation::softmax:
        case Activation::log_softmax:
            return groups([=](const float* of, float* to) { softmax(of, to, group, kind == Activation::log_softmax); });
        case Activation::sparsemax: return groups([=](const float* of, float* to) { sparsemax(of, to, group); });
        case Activation::glu:
            for (int64_t r = 0; r < rows; r++)
                for (int64_t g = 0; g < n; g += group) {
                    const float* of = x + r * stride + g;
                    float* to = out + r * stride + g / 2;
                    for (int64_t i = 0; i < group / 2; i += W)
                        store(to + i, load(of + i) * sigmoid_(load(of + group / 2 + i)));
                }
            return;
    }
}

// gates and states

// f(row), and before it, for some rows at once, tanh of the n floats at `gates`: its chains of operations are long, and
// what depends on several of them waits
template <class F>
inline __attribute__((always_inline)) void after_tanh(float* s, int64_t rows, int64_t stride, int64_t gates, int64_t n,
                                                      F f) {
    constexpr int64_t SOME = 12;
    for (int64_t first = 0; first < rows; first += SOME) {
        const int64_t last = first + SOME < rows ? first + SOME : rows;
        for (int64_t r = first; r < last; r++)
            for (int64_t j = r * stride + gates; j < r * stride + gates + n; j += W) store(s + j, tanh_(load(s + j)));
        for (int64_t r = first; r < last; r++) f(s + r * stride);
    }
}

void lstm(const Instruction& in, float* s) {
    const int64_t* a = in.a;
    float *i = s + a[0], *f = i + a[1], *g = f + a[1], *o = g + a[1];
    float *c = s + a[2], *h = s + a[3];
    if (a[5]) {
        for (int64_t j = 0; j < a[4]; j += W) {
            const V kept = sigmoid_of_tanh(load(f + j)), in = sigmoid_of_tanh(load(i + j)) * load(g + j);
            const V next = fma(kept, load(c + j), in);
            store(c + j, next);
            store(h + j, sigmoid_of_tanh(load(o + j)) * tanh_(next));
        }
    } else {
        for (int64_t j = 0; j < a[4]; j += W)
            store(c + j, fma(load(f + j), load(c + j), load(i + j) * load(g + j)));
    }
}

void gru(const Instruction& in, float* s) {
    const int64_t* a = in.a;
    float *z = s + a[0], *r = z + a[1], *x = s + a[2], *u = s + a[3];
    float* h = s + a[4];
    for (int64_t j = 0; j < a[5]; j += W) {
        const V candidate = tanh_(fma(sigmoid_of_tanh(load(r + j)), load(u + j), load(x + j)));
        store(h + j, fma(sigmoid_of_tanh(load(z + j)), load(h + j) - candidate, candidate));
    }
}

void elementwise(const Instruction& in, const float* w, float* s) {
    const int64_t* a = in.a;
    const float* x[3];
    for (int i = 0; i < 3; i++) x[i] = (a[4 + 2 * i] ? w : s) + a[3 + 2 * i];
    float* out = s + a[0];
    const int64_t n = a[2];
    const auto over = [&](auto f) __attribute__((always_inline)) {
        for (int64_t i = 0; i < n; i += W) store(out + i, f(load(x[0] + i), load(x[1] + i), load(x[2] + i)));
    };
    switch ((Elementwise)a[1]) {
        case Elementwise::add: return over([](V p, V q, V) { return p + q; });
        case Elementwise::subtract: return over([](V p, V q, V) { return p - q; });
        case Elementwise::multiply: return over([](V p, V q, V) { return p * q; });
        case Elementwise::minimum: return over([](V p, V q, V) { return p != p || p < q ? p : q; });
        case Elementwise::maximum: return over([](V p, V q, V) { return p != p || p > q ? p : q; });
        case Elementwise::multiply_add: return over([](V p, V q, V r) { return fma(p, q, r); });
        case Elementwise::interpolate: return over([](V p, V q, V r) { return fma(p, q - r, r); });
        case Elementwise::standardise: return over([](V p, V q, V r) { return (p - q) / r; });
        case Elementwise::prelu: return over([](V p, V q, V) { return p > 0.0f ? p : q * p; });
        case Elementwise::choose: {
            const V chosen = *x[1] != 0 ? all(1.0f) : all(0.0f);
            return over([=](V p, V, V r) { return chosen != 0.0f ? p : r; });
        }
    }
}

void embedding(const Instruction& in, const Program& program, float* s) {
    const int64_t* a = in.a;
    const float* w = program.weights;
    for (int64_t i = 0; i < a[2]; i++) {
        const float x = s[a[1] + i];
        const bool known = x >= 0 && x < (float)a[4] && x == std::floor(x);
        if (!known) s[program.fault] = NAN;  // a mask may hide it from answers and states
        const float* row = w + a[3] + (known ? (int64_t)x : 0) * a[5];
        for (int64_t j = 0; j < a[5]; j++) s[a[0] + i * a[5] + j] = known ? row[j] : NAN;
    }
}

void layer_norm(const Instruction& in, const float* w, float* s) {
    const int64_t* a = in.a;
    const int64_t n = a[3];
    for (int64_t g = 0; g < a[2]; g++) {
        const float* x = s + a[1] + g * n;
        float* out = s + a[0] + g * n;
        const float mean = sum(x, n, [](float v) { return v; }) / (float)n;
        const float variance = sum(x, n, [=](float v) { return (v - mean) * (v - mean); }) / (float)n;
        const float deviation = __builtin_sqrtf(variance + in.f[0]);
        for (int64_t i = 0; i < n; i++) {
            float y = (a[4] ? x[i] - mean : x[i]) / deviation;
            if (a[5] >= 0) y = y * w[a[5] + g * n + i];
            out[i] = a[6] >= 0 ? y + w[a[6] + g * n + i] : y;
        }
    }
}

void dot(const Instruction& in, float* s) {
    const int64_t* a = in.a;
    const float *x = s + a[1], *y = s + a[2];
    const int64_t n = a[3];
    float p = 1, q = 1;
    if (a[4]) {
        const auto length = [n](const float* v) {
            const float square = sum(v, n, [](float u) { return u * u; });
            return __builtin_sqrtf(square < 1e-12f ? 1e-12f : square);
        };
        p = length(x), q = length(y);
    }
    float part[BLOCK] = {};
    for (int64_t i = 0; i < n; i++) part[i % BLOCK] += (x[i] / p) * (y[i] / q);
    for (int half = BLOCK / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    s[a[0]] = part[0];
}

void pool(const Instruction& in, const int32_t* indices, float* s) {
    const int64_t* a = in.a;
    const int32_t* index = indices + a[2];
    for (int64_t i = 0; i < a[1]; i++) {
        float y = a[4] ? 0.0f : -INFINITY, count = 0;
        for (int64_t j = 0; j < a[3]; j++, index++)
            if (*index >= 0) {
                const float x = s[*index];
                y = a[4] ? y + x : (x > y || x != x ? x : y);
                count += 1;
            }
        s[a[0] + i] = a[4] ? y / count : y;
    }
}

void position_dense(const Instruction& in, const Program& program, float* s) {
    const int64_t* a = in.a;
    const float position = s[a[3]];
    const bool inside = position >= 0 && position < (float)a[5];
    const int64_t at = inside ? (int64_t)position : 0, width = a[4] * BLOCK;
    const Part parts[2] = {{s + a[1], a[2], program.weights + a[6] + at * a[2] * width}, {s, 0, program.weights}};
    float* total = s + a[8];
    columns<1, WIDE[1]>(1, s + a[0], program.scratch, nullptr, parts, a[4]);
    const float* bias = program.weights + a[7] + at * width;
    for (int64_t i = 0; i < width; i += W) {
        const V next = load(total + i) + (inside ? load(s + a[0] + i) : all(NAN));
        store(total + i, next);
        store(s + a[0] + i, next + load(bias + i));
    }
}

// calibration and decisions: one operation after the other, as NumPy does them (ops/calibrate.py, ops/trigger.py), so
// that not a bit differs and no comparison comes out another way

// which of n positions the sample after `count` others has
inline int64_t position_of(float count, int64_t n) {
    return count >= (float)n ? n - 1 : count > 0 ? (int64_t)count : 0;
}

inline void count_up(float& count, int64_t n) {
    const float next = count + 1.0f;
    count = next > (float)n ? (float)n : next;
}

void calibrate(const Instruction& in, const float* w, float* s) {
    const int64_t* a = in.a;
    float& count = s[a[5]];
    const float scale = w[a[3] + position_of(count, a[4])];
    for (int64_t i = 0; i < a[2]; i++) s[a[0] + i] = s[a[1] + i] * scale;
    count_up(count, a[4]);
}

void isotonic(const Instruction& in, const float* w, float* s) {
    const int64_t* a = in.a;
    const float *x = w + a[4], *y = w + a[5];
    const int64_t last = a[3] - 1;
    float* out = s + a[0];
    for (int64_t j = 0; j < a[2]; j++) {
        const float given = s[a[1] + j], p = given < x[0] ? x[0] : given > x[last] ? x[last] : given;
        int64_t i = 0, above = last;  // x[i] <= p < x[above], but for the ends
        while (above - i > 1) {
            const int64_t middle = (i + above) / 2;
            (x[middle] <= p ? i : above) = middle;
        }
        out[j] = y[i] + (p - x[i]) / (x[i + 1] - x[i]) * (y[i + 1] - y[i]);
    }
    if (a[2] == 1) return;
    float total = out[0];
    for (int64_t j = 1; j < a[2]; j++) total += out[j];
    for (int64_t j = 0; j < a[2]; j++) out[j] = total == 0 ? 1.0f / (float)a[2] : out[j] / total;
}

void trigger(const Instruction& in, const float* w, float* s) {
    const int64_t* a = in.a;
    const float* p = s + a[1];
    float first = p[0], second = -INFINITY;
    int64_t top = 0;
    bool known = first == first;
    if (a[2] == 1) {  // the classes 1 - p and p
        first = 1.0f - p[0], second = p[0];
        if (second > first) std::swap(first, second), top = 1;
    }
    for (int64_t j = 1; j < a[2]; j++) {
        known &= p[j] == p[j];
        if (p[j] > first)
            second = first, first = p[j], top = j;
        else if (p[j] > second)
            second = p[j];
    }
    float &count = s[a[7]], &streak = s[a[8]], &last = s[a[9]], &decision = s[a[10]];
    const float* rule = w + a[3] + 3 * position_of(count, a[4]);
    const bool fires = known && rule[0] * first + rule[1] * (first - second) + rule[2] > 0;
    const float name = fires ? (float)(top + 1) : 0.0f, k = (float)a[5];
    const float longer = name == last ? streak + 1.0f : 1.0f;
    streak = !fires ? 0.0f : longer > k ? k : longer;
    last = name;
    if (!(a[6] && decision > 0)) decision = streak >= k ? name : 0.0f;
    s[a[0]] = decision - 1.0f;
    count_up(count, a[4]);
}

// rows

inline void copy(float* to, const float* from, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, load(from + i));
    for (; i < n; i++) to[i] = from[i];
}

// x - x is 0, without a bit set, for finite x only
inline void add_faults(I& faults, const float* x, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        const V v = load(x + i);
        faults |= (I)(v - v);
    }
    for (; i < n; i++) faults[0] |= x[i] - x[i] == 0 ? 0 : 1;
}

inline bool none(I faults) {
    uint64_t bits[sizeof faults / 8], any = 0;
    std::memcpy(bits, &faults, sizeof faults);
    for (uint64_t b : bits) any |= b;
    return any == 0;
}

template <class F>
inline __attribute__((always_inline)) void rows(float* s, int64_t count, int64_t stride, F f) {
    for (int64_t r = 0; r < count; r++) f(s + r * stride);
}

void run(const Program& p, const Rows& given, int64_t first, int64_t count, float* scratch) {
    const float* w = p.weights;
    const int64_t stride = p.scratch;
    for (int64_t r = 0; r < count; r++) {
        float* s = scratch + r * stride;
        for (const Segment& g : p.state) copy(s + g.place, given.state[first + r] + g.at, g.n);
        copy(s + p.input, given.x[first + r], p.features);
        s[p.mask] = given.mask == nullptr || given.mask[first + r] ? 1.0f : 0.0f;
        s[p.fault] = 0;
    }
    for (const Instruction& in : p.code) {
        if (in.late && given.out == nullptr) continue;
        const int64_t* a = in.a;
        const auto all_rows = [&](auto f) __attribute__((always_inline)) { rows(scratch, count, stride, f); };
        switch (in.op) {
            case Op::gemm: gemm(in, p, scratch, count); break;
            case Op::activation:
                activate((Activation)a[3], in.f, scratch + a[1], scratch + a[0], a[2], a[4], count, stride);
                break;
            case Op::lstm:
                after_tanh(scratch, count, stride, a[0], a[5] ? 4 * a[1] : 0, [&](float* s) { lstm(in, s); });
                break;
            case Op::gru: after_tanh(scratch, count, stride, a[0], 2 * a[1], [&](float* s) { gru(in, s); }); break;
            case Op::elementwise: all_rows([&](float* s) { elementwise(in, w, s); }); break;
            case Op::gather:
                all_rows([&](float* s) {
                    const int32_t* index = p.indices + a[2];
                    for (int64_t i = 0; i < a[1]; i++) s[a[0] + i] = index[i] < 0 ? in.f[0] : s[index[i]];
                });
                break;
            case Op::copy: all_rows([&](float* s) { copy(s + a[0], s + a[1], a[2]); }); break;
            case Op::embedding: all_rows([&](float* s) { embedding(in, p, s); }); break;
            case Op::layer_norm: all_rows([&](float* s) { layer_norm(in, w, s); }); break;
            case Op::dot: all_rows([&](float* s) { dot(in, s); }); break;
            case Op::pool: all_rows([&](float* s) { pool(in, p.indices, s); }); break;
            case Op::mask_differs:
                all_rows([&](float* s) {
                    bool differs = false;
                    for (int64_t i = 0; i < a[2]; i++) differs |= s[a[1] + i] != in.f[0];
                    s[a[0]] = differs ? 1.0f : 0.0f;
                });
                break;
            case Op::restore_masked:
                for (int64_t r = 0; r < count; r++) {
                    float* s = scratch + r * stride;
                    if (s[a[0]] != 0) continue;
                    for (const Segment& g : p.slots)
                        if (g.place >= a[1] && g.place < a[2])
                            copy(s + g.place, given.state[first + r] + g.at, g.n);
                }
                break;
            case Op::position_dense: all_rows([&](float* s) { position_dense(in, p, s); }); break;
            case Op::calibrate: all_rows([&](float* s) { calibrate(in, w, s); }); break;
            case Op::isotonic: all_rows([&](float* s) { isotonic(in, w, s); }); break;
            case Op::trigger: all_rows([&](float* s) { trigger(in, w, s); }); break;
        }
    }
    for (int64_t r = 0; r < count; r++) {
        const float* s = scratch + r * stride;
        I faults = {};
        for (const Segment& g : p.state) add_faults(faults, s + g.place, g.n);
        add_faults(faults, s + p.fault, 1);
        if (given.out != nullptr)  // or the answers were left out, and their places hold anything
            for (const Segment& g : p.answers) {
                add_faults(faults, s + g.place, g.n);
                copy(given.out[first + r] + g.at, s + g.place, g.n);
            }
        const bool good = none(faults);
        given.finite[first + r] = good;
        if (good || !given.guard)
            for (const Segment& g : p.state) copy(given.state[first + r] + g.at, s + g.place, g.n);
    }
}

// Rows may lie anywhere in a large table.
void fetch(const Program& p, const Rows& given, int64_t from, int64_t to) {
    for (int64_t r = from; r < to && r < given.count; r++)
        for (int64_t i = 0; i < p.state_size && i < 512; i += BLOCK) __builtin_prefetch(given.state[r] + i, 1);
}

void step(const Program& p, const Rows& given, float* scratch) {
    fetch(p, given, 0, p.tile);
    for (int64_t first = 0; first < given.count; first += p.tile) {
        const int64_t left = given.count - first, count = left < p.tile ? left : p.tile;
        fetch(p, given, first + count, first + 2 * count);
        run(p, given, first, count, scratch);
    }
}

// as many multiply-adds as the core can do, for the share of it that a model reaches
double peak(int64_t rounds) {
    V sum[12];
    for (int i = 0; i < 12; i++) sum[i] = all((float)i);
    const V a = all(0.999f), b = all(0.001f);
    for (int64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < 12; i++) sum[i] = fma(sum[i], a, b);
    }
    float keep = 0;
    for (int i = 0; i < 12; i++) keep += sum[i][0];
    return keep == 12345.0f ? 0.0 : 12.0 * W * (double)rounds;
}

}  // namespace

extern const Kernel STEPSTREAM_KERNEL = {STEPSTREAM_NAME, step, activate, peak};

}  // namespace stepstream
