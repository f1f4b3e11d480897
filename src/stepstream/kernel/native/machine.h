// A program with its memory: steps rows, under sliding(n) too.
#pragma once

#include <cstdlib>
#include <memory>

#include "program.h"

namespace stepstream {

struct Free {
    void operator()(void* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats aligned_floats(int64_t n, bool zero = true);  // 64-byte aligned; throws std::bad_alloc

const Kernel& kernel();  // the best that this processor has, or what STEPSTREAM_ISA asks for

enum class Sliding { none, states, recompute };

inline int64_t padded(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

template <class T>
struct Span {
    const T* data;
    int64_t size;
};

// What plan.py makes. code: op, 12 operands and `late` of each instruction; options: 3 each; state and answers: three
// columns, as in Segment; initial: the state row of a stream that has seen nothing.
struct Parts {
    Span<int64_t> code;
    Span<float> options, weights;
    Span<int32_t> indices;
    Span<int64_t> state, answers;
    Span<float> initial;
    int64_t features, outputs, scratch, input, mask, tile;
};

class Machine {
  public:
    explicit Machine(const Parts& parts);  // throws std::invalid_argument where a place lies outside
    Machine(const Machine& around, Sliding sliding, int64_t n, int64_t stride);  // shares the other's weights

    Program program;
    Floats weights;
    std::vector<int32_t> indices;
    std::vector<float> initial;  // a row of a stream that has seen nothing, of the program
    Sliding sliding = Sliding::none;
    int64_t n = 0, stride = 1, ring = 0;

    int64_t state_size() const;
    double work() const;  // multiply-adds of one step
    void reset(float* row) const;
    // rows of state_size(); splits them over threads
    void step(const Rows& rows, int64_t threads) const;

  private:
    void step_some(const Rows& rows) const;
    void slide_states(const Rows& rows, int64_t r) const;
    void slide_recompute(const Rows& rows, int64_t r) const;
    void unknown(const Rows& rows, int64_t r) const;  // a row that holds no count: no answer, and left alone
};

}  // namespace stepstream
