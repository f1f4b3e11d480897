// A plan as the machine runs it: instructions over the values of one row, all of them in one stretch of scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace stepstream {

// Operands are places in a row's scratch, in floats, unless said otherwise; w: a place in the weights; n: a count of
// values. Vectors are worked on in whole blocks of BLOCK floats, for which every place leaves room.
constexpr int BLOCK = 16;

enum class Op : int32_t {
    // a: out, blocks, bias w or -1, positions, x step, out step, then twice: x, k, w (k 0: no second). Weights packed
    // per block of 16 outputs: (blocks, k, 16). out[p] = bias + sum over k of x[p][k] w[k], in this order.
    gemm,
    // a: out, x, n, kind, group; f: options. Softmax and the like work over groups of values.
    activation,
    // a: z of 4 gates i f g o, stride of the gates, c, h, n, fused: tanh and sigmoid are still to be applied, and i, f
    // and o are halved, as sigmoid(x) is made of tanh(x / 2). Without fused only c is made.
    lstm,
    // a: z and r, halved, stride, x part of the candidate, h part, h, n. tanh and sigmoid included.
    gru,
    // a: out, kind, n, then three times: operand, whether it is a weight
    elementwise,
    // a: out, n, indices; out[i] = scratch[index], or f[0] where it is -1
    gather,
    // a: out, x, n
    copy,
    // a: out, indices in, n of them, table w, rows, columns
    embedding,
    // a: out, x, groups, n, centre, gamma w or -1, beta w or -1; f: epsilon
    layer_norm,
    // a: out, a, b, n, normalise
    dot,
    // a: out, n, indices, members, average
    pool,
    // a: out, x, n; f: value. 1 where any differs
    mask_differs,
    // a: mask, places of state: back to what the row had before
    restore_masked,
    // a: out, h, k, position, blocks, positions, kernel w (positions, blocks, k, 16), bias w (positions, blocks * 16),
    // sum
    position_dense,
    // a: out, x, n, scale w, positions, count
    calibrate,
    // a: out, x, n, knots, w of their x, w of their y
    isotonic,
    // a: out, probabilities, n, rule w (positions, 3), positions, k, latched, then states: count, streak, class, decision
    trigger,
};

enum class Elementwise : int32_t {
    add, subtract, multiply, minimum, maximum, multiply_add, interpolate, standardise, prelu, choose
};

enum class Activation : int32_t {
    linear, tanh, sigmoid, sparse_sigmoid, hard_sigmoid, hard_sigmoid_02, relu, leaky_relu, thresholded_relu, elu, celu,
    selu, softplus, log_sigmoid, mish, softsign, silu, hard_silu, gelu, gelu_tanh, squareplus, sparse_plus, soft_shrink,
    hard_shrink, tanh_shrink, hard_tanh, exponential, softmax, log_softmax, sparsemax, glu
};

struct Instruction {
    Op op;
    int64_t a[12];
    float f[3];
    bool late;  // no state depends on it: left out where nobody wants the answer
};

// n floats at `at` in a state row (or an answer), at `place` in the scratch
struct Segment {
    int64_t at, place, n;
};

struct Program {
    int64_t features = 0, state_size = 0, outputs = 0;
    int64_t scratch = 0;      // floats of one row
    int64_t input = 0;        // place of the features
    int64_t mask = 0;         // place of the caller's mask
    int64_t fault = 0;        // place of what is NaN where an instruction met what no model has an answer to
    int64_t tile = 1;         // rows worked on together
    std::vector<Instruction> code;
    std::vector<Segment> slots;           // each state by itself
    std::vector<Segment> state, answers;  // state: the slots, those side by side together
    const float* weights = nullptr;  // 64-byte aligned
    const int32_t* indices = nullptr;
};

// Rows to step: pointers, so that they may lie anywhere.
struct Rows {
    int64_t count;
    float* const* state;         // each state_size floats; may be changed in place
    const float* const* x;       // each features floats
    const uint8_t* mask;         // one each, or null
    float* const* out;           // each outputs floats; null: not wanted
    uint8_t* finite;             // one each
    bool guard;                  // a row that would turn non-finite keeps its state
};

struct Kernel {
    const char* name;
    void (*step)(const Program&, const Rows&, float* scratch);  // scratch: tile * program.scratch floats, aligned
    void (*activate)(Activation kind, const float* options, const float* x, float* out, int64_t n, int64_t group,
                     int64_t rows, int64_t stride);
    double (*peak)(int64_t rounds);  // multiply-adds done
};

extern const Kernel kernel_base;
#if defined(__x86_64__)
extern const Kernel kernel_v3, kernel_v4;
#endif

}  // namespace stepstream
