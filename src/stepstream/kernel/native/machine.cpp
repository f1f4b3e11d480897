#include "machine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

namespace stepstream {

Floats aligned_floats(int64_t n, bool zero) {
    const size_t bytes = ((size_t)std::max<int64_t>(n, 1) * sizeof(float) + 63) / 64 * 64;
    void* p = std::aligned_alloc(64, bytes);
    if (p == nullptr) throw std::bad_alloc();
    if (zero) std::memset(p, 0, bytes);
    return Floats((float*)p);
}

namespace {

const Kernel& choose() {
    const char* asked = std::getenv("STEPSTREAM_ISA");
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512cd");
    const std::pair<const Kernel*, bool> known[] = {{&kernel_v4, v4}, {&kernel_v3, v3}, {&kernel_base, true}};
#else
    const std::pair<const Kernel*, bool> known[] = {{&kernel_base, true}};
#endif
    for (const auto& [k, able] : known)
        if (asked == nullptr || *asked == 0 ? able : std::string(asked) == k->name) {
            if (able) return *k;
            throw std::runtime_error(std::string("STEPSTREAM_ISA=") + asked + ": this processor cannot do that");
        }
    throw std::runtime_error(std::string("STEPSTREAM_ISA: expected v4, v3 or base, got ") + asked);
}

// a thread's own working memory, kept between calls
float* scratch(int64_t floats) {
    thread_local Floats memory;
    thread_local int64_t size = 0;
    if (size < floats) {
        memory = aligned_floats(floats);
        size = floats;
    }
    return memory.get();
}

// the plan

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument("plan: " + message); }

void check_place(int64_t place, int64_t n, int64_t size, const char* what) {
    if (place < 0 || n < 0 || place > size || n > size - place)
        refuse(std::string(what) + " lies outside: " + std::to_string(n) + " at " + std::to_string(place) + " of " +
               std::to_string(size));
}

// Every place that an instruction touches lies inside the scratch, the weights or the indices.
void check(const Instruction& in, const Machine& m, int64_t weights) {
    const int64_t* a = in.a;
    const int64_t size = m.program.scratch;
    const auto times = [](int64_t x, int64_t y, int64_t z = 1) {  // of counts
        int64_t xy, out;
        if (x < 0 || y < 0 || z < 0 || __builtin_mul_overflow(x, y, &xy) || __builtin_mul_overflow(xy, z, &out) ||
            out > (int64_t)1 << 40)
            refuse("a count is out of range");
        return out;
    };
    const auto value = [&](int64_t at, int64_t n) {
        check_place(at, n, size, "a value");
        check_place(at, padded(n), size, "a value");
    };
    const auto weight = [&](int64_t at, int64_t n) { check_place(at, n, weights, "a weight"); };
    const auto index = [&](int64_t at, int64_t n) {
        check_place(at, n, (int64_t)m.indices.size(), "an index");
        for (int64_t i = at; i < at + n; i++)
            if (m.indices[i] >= size) refuse("an index lies outside");
    };
    switch (in.op) {
        case Op::gemm:
            value(a[0], times(a[3] - 1, a[5]) + times(a[1], BLOCK));
            if (a[2] != -1) weight(a[2], times(a[1], BLOCK));
            value(a[6], times(a[3] - 1, a[4]) + times(a[7], 1));
            weight(a[8], times(a[1], a[7], BLOCK));
            value(a[9], a[10]);
            weight(a[11], times(a[1], a[10], BLOCK));
            break;
        case Op::activation: {
            const int64_t n = a[2], group = a[4];
            if (a[3] < 0 || a[3] > (int64_t)Activation::glu) refuse("no such activation");
            if (group < 1 || n % group) refuse("groups do not divide the values");
            const int64_t last = times(n / group, group) - group;  // whole vectors of it are read and written
            value(a[0], n), value(a[1], n), value(a[0] + last, group), value(a[1] + last, group);
            if ((Activation)a[3] == Activation::glu) value(a[1] + last + group / 2, group / 2);
            break;
        }
        case Op::lstm:
            value(a[2], a[4]), value(a[3], a[4]);
            value(a[0], times(4, a[1])), value(a[0], times(3, a[1]) + a[4]);
            break;
        case Op::gru:
            value(a[2], a[5]), value(a[3], a[5]), value(a[4], a[5]);
            value(a[0], times(2, a[1])), value(a[0], times(1, a[1]) + a[5]);
            break;
        case Op::elementwise:
            value(a[0], a[2]);
            if (a[1] < 0 || a[1] > (int64_t)Elementwise::choose) refuse("no such function");
            for (int i = 3; i < 9; i += 2)
                if (a[i + 1])
                    weight(a[i], padded(a[2]));
                else
                    value(a[i], a[2]);
            break;
        case Op::gather: value(a[0], a[1]), index(a[2], a[1]); break;
        case Op::copy: value(a[0], a[2]), value(a[1], a[2]); break;
        case Op::embedding:
            value(a[0], times(a[2], a[5])), value(a[1], a[2]), weight(a[3], times(a[4], a[5]));
            break;
        case Op::layer_norm:
            value(a[0], times(a[2], a[3])), value(a[1], times(a[2], a[3]));
            for (int i = 5; i < 7; i++)
                if (a[i] != -1) weight(a[i], times(a[2], a[3]));
            break;
        case Op::dot: value(a[0], 1), value(a[1], a[3]), value(a[2], a[3]); break;
        case Op::pool: value(a[0], a[1]), index(a[2], times(a[1], a[3])); break;
        case Op::mask_differs: value(a[0], 1), value(a[1], a[2]); break;
        case Op::restore_masked: value(a[0], 1); break;
        case Op::position_dense: {
            const int64_t width = times(a[4], BLOCK);
            value(a[0], width), value(a[1], a[2]), value(a[3], 1), value(a[8], width);
            weight(a[6], times(a[5], a[2], width)), weight(a[7], times(a[5], width));
            break;
        }
        case Op::calibrate:
            value(a[0], a[2]), value(a[1], a[2]), value(a[5], 1), weight(a[3], a[4]);
            if (a[4] < 1) refuse("no positions");
            break;
        case Op::isotonic:
            value(a[0], a[2]), value(a[1], a[2]), weight(a[4], a[3]), weight(a[5], a[3]);
            if (a[3] < 2 || a[2] < 1) refuse("too few knots");
            break;
        case Op::trigger:
            value(a[0], 1), value(a[1], a[2]), weight(a[3], times(a[4], 3));
            if (a[4] < 1 || a[2] < 1) refuse("no positions");
            for (int i = 7; i < 11; i++) value(a[i], 1);
            break;
        default: refuse("no such instruction");
    }
}

std::vector<Segment> segments(Span<int64_t> rows, int64_t size, int64_t places, const char* what) {
    if (rows.size % 3) refuse("segments have three columns");
    std::vector<Segment> out;
    for (const int64_t* row = rows.data; row != rows.data + rows.size; row += 3) {
        const Segment g = {row[0], row[1], row[2]};
        check_place(g.at, g.n, size, what);
        check_place(g.place, padded(g.n), places, "a value");
        out.push_back(g);
    }
    return out;
}

}  // namespace

Machine::Machine(const Parts& parts) {
    Program& p = program;
    p.features = parts.features, p.outputs = parts.outputs, p.scratch = parts.scratch, p.input = parts.input;
    p.mask = parts.mask, p.fault = p.mask + 1, p.tile = parts.tile, p.state_size = parts.initial.size;
    const int64_t count = parts.code.size / 14;
    if (parts.code.size != 14 * count || parts.options.size != 3 * count || p.scratch % BLOCK || p.scratch < BLOCK ||
        p.scratch > (int64_t)1 << 32 || p.tile < 1 || p.tile > 1024)
        refuse("wrong shapes");
    indices.assign(parts.indices.data, parts.indices.data + parts.indices.size);
    initial.assign(parts.initial.data, parts.initial.data + parts.initial.size);
    weights = aligned_floats(parts.weights.size);
    std::copy_n(parts.weights.data, parts.weights.size, weights.get());
    p.weights = weights.get(), p.indices = indices.data();
    check_place(p.input, padded(p.features), p.scratch, "the input");
    check_place(p.mask, BLOCK, p.scratch, "the mask");
    for (int64_t i = 0; i < count; i++) {
        const int64_t* line = parts.code.data + 14 * i;
        Instruction in;
        in.op = (Op)line[0], in.late = line[13] != 0;
        std::copy_n(line + 1, 12, in.a);
        std::copy_n(parts.options.data + 3 * i, 3, in.f);
        check(in, *this, parts.weights.size);
        p.code.push_back(in);
    }
    p.slots = segments(parts.state, p.state_size, p.scratch, "a state");
    p.answers = segments(parts.answers, p.outputs, p.scratch, "an answer");
    for (const Segment& g : p.slots) {
        Segment* last = p.state.empty() ? nullptr : &p.state.back();
        if (last && last->at + last->n == g.at && last->place + last->n == g.place)
            last->n += g.n;
        else
            p.state.push_back(g);
    }
}

Machine::Machine(const Machine& around, Sliding way, int64_t n_, int64_t stride_)
    : program(around.program), indices(around.indices), initial(around.initial), sliding(way), n(n_), stride(stride_),
      ring((n_ + stride_ - 1) / stride_) {
    program.indices = indices.data();
}

const Kernel& kernel() {
    static const Kernel& chosen = choose();
    return chosen;
}

double Machine::work() const {
    double sum = 0;
    for (const Instruction& in : program.code)
        if (in.op == Op::gemm) sum += (double)in.a[3] * in.a[1] * BLOCK * (in.a[7] + in.a[10]);
    return sum * (sliding == Sliding::none ? 1 : sliding == Sliding::states ? ring : n);
}

int64_t Machine::state_size() const {
    if (sliding == Sliding::states) return program.state_size * ring + 1;
    if (sliding == Sliding::recompute) return n * (program.features + 1) + 1;
    return program.state_size;
}

void Machine::reset(float* row) const {
    if (sliding == Sliding::recompute) {
        std::fill(row, row + state_size(), 0.0f);
    } else if (sliding == Sliding::states) {
        for (const Segment& g : program.slots)
            for (int64_t m = 0; m < ring; m++)
                std::copy_n(initial.data() + g.at, g.n, row + g.at * ring + m * g.n);
        row[state_size() - 1] = 0;
    } else {
        std::copy(initial.begin(), initial.end(), row);
    }
}

void Machine::step(const Rows& rows, int64_t threads) const {
    const int64_t tiles = (rows.count + program.tile - 1) / program.tile;
    threads = std::max<int64_t>(1, std::min(threads, tiles));
    if (threads == 1) return step_some(rows);
    std::exception_ptr failed;
    std::mutex mutex;
    const auto part = [&](int64_t t) {
        const int64_t from = tiles * t / threads * program.tile;
        const int64_t to = std::min(rows.count, tiles * (t + 1) / threads * program.tile);
        Rows own = rows;
        own.count = to - from;
        own.state += from, own.x += from, own.finite += from;
        if (own.mask != nullptr) own.mask += from;
        if (own.out != nullptr) own.out += from;
        try {
            step_some(own);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            failed = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    others.reserve(threads);
    int64_t started = 1;
    try {
        for (; started < threads; started++) others.emplace_back(part, started);
    } catch (const std::system_error&) {  // no more threads: this one does the rest
    }
    part(0);
    for (int64_t t = started; t < threads; t++) part(t);
    for (std::thread& t : others) t.join();
    if (failed) std::rethrow_exception(failed);
}

void Machine::step_some(const Rows& rows) const {
    if (sliding == Sliding::none) return kernel().step(program, rows, scratch(program.tile * program.scratch));
    for (int64_t r = 0; r < rows.count; r++)
        sliding == Sliding::states ? slide_states(rows, r) : slide_recompute(rows, r);
}

namespace {

// What a thread needs to slide, kept between calls.
struct Room {
    std::vector<int64_t> places;
    std::vector<float> states, answers;
    std::vector<float*> state, out;
    std::vector<const float*> x;
    std::vector<uint8_t> mask, good, idle;
};

Room& room() {
    thread_local Room r;
    return r;
}

// A count out of a row, with this sample; 0 for what is none, wherever it came from.
int64_t counted(float before, int64_t most) {
    return before >= 0 && before <= (float)most && before == std::floor(before) ? (int64_t)before + 1 : 0;
}

}  // namespace

// A ring of states: state m started at sample m * stride, counted from 0, in place m % ring. Each slot has the axis of
// the ring in front.
void Machine::slide_states(const Rows& rows, int64_t r) const {
    float* row = rows.state[r];
    const int64_t period = n + stride * ring, size = program.state_size, outputs = program.outputs;
    const int64_t count = counted(row[state_size() - 1], period);
    if (count == 0) return unknown(rows, r);
    const int64_t newest = (count - 1) / stride;
    Room& o = room();
    o.places.clear();
    o.idle.assign(ring, 1);
    int64_t oldest = 0, most = 0;
    for (int64_t m = 0; m < ring; m++) {
        const int64_t started = newest - ((newest - m) % ring + ring) % ring;
        const int64_t seen = started < 0 ? 0 : count - stride * started;
        if (seen < 1 || seen > n) continue;
        if (seen > most) most = seen, oldest = (int64_t)o.places.size();
        o.idle[m] = seen == 1 ? 2 : 0;  // 2: starts with this sample
        o.places.push_back(m);
    }
    const int64_t k = (int64_t)o.places.size();
    o.states.resize(k * size), o.answers.resize(k * outputs);
    o.state.resize(k), o.out.resize(k), o.good.resize(k);
    o.x.assign(k, rows.x[r]);
    o.mask.assign(k, rows.mask == nullptr ? 1 : rows.mask[r]);
    for (int64_t i = 0; i < k; i++) {
        o.state[i] = o.states.data() + i * size;
        o.out[i] = o.answers.data() + i * outputs;
        const int64_t m = o.places[i];
        for (const Segment& g : program.slots)
            std::copy_n(o.idle[m] ? initial.data() + g.at : row + g.at * ring + m * g.n, g.n, o.state[i] + g.at);
        o.idle[m] = 0;
    }
    const Rows own = {k, o.state.data(), o.x.data(), o.mask.data(), o.out.data(), o.good.data(), false};
    kernel().step(program, own, scratch(program.tile * program.scratch));
    const auto finite = [](float x) { return std::isfinite(x); };  // but of the answers nobody gets another
    rows.finite[r] = std::all_of(o.good.begin(), o.good.end(), [](uint8_t g) { return g != 0; }) ||
                     (o.good[oldest] && std::all_of(o.states.begin(), o.states.end(), finite));
    if (rows.out != nullptr) std::copy_n(o.out[oldest], outputs, rows.out[r]);
    if (!rows.finite[r] && rows.guard) return;
    for (int64_t i = 0; i < k; i++)
        for (const Segment& g : program.slots)
            std::copy_n(o.state[i] + g.at, g.n, row + g.at * ring + o.places[i] * g.n);
    for (int64_t m = 0; m < ring; m++)
        if (o.idle[m])
            for (const Segment& g : program.slots) std::copy_n(initial.data() + g.at, g.n, row + g.at * ring + m * g.n);
    row[state_size() - 1] = (float)(count == period ? n : count);
}

// The last n samples, oldest first, their masks, and the count; the model runs over them anew.
void Machine::slide_recompute(const Rows& rows, int64_t r) const {
    float* row = rows.state[r];
    const int64_t f = program.features, count = counted(row[n * (f + 1)], n + stride);
    if (count == 0) return unknown(rows, r);
    const uint8_t mask = rows.mask == nullptr || rows.mask[r];
    const int64_t late = std::max<int64_t>(0, count - n), seen = count - stride * ((late + stride - 1) / stride);
    Room& o = room();
    o.states.assign(initial.begin(), initial.end());
    float* state = o.states.data();
    uint8_t good = 1;
    for (int64_t t = n - seen; t < n; t++) {
        const bool newest = t == n - 1;
        const float* x = newest ? rows.x[r] : row + (t + 1) * f;
        const uint8_t counts = newest ? mask : row[n * f + t + 1] > 0;
        uint8_t now = 1;
        const Rows one = {1, &state, &x, &counts, newest && rows.out ? rows.out + r : nullptr, &now, false};
        kernel().step(program, one, scratch(program.tile * program.scratch));
        good &= now;
    }
    rows.finite[r] = good;
    if (!good && rows.guard) return;
    std::copy(row + f, row + n * f, row);
    std::copy_n(rows.x[r], f, row + (n - 1) * f);
    std::copy(row + n * f + 1, row + n * (f + 1), row + n * f);
    row[n * (f + 1) - 1] = (float)mask;
    row[n * (f + 1)] = (float)(count == n + stride ? n : count);
}

void Machine::unknown(const Rows& rows, int64_t r) const {
    rows.finite[r] = 0;
    if (rows.out != nullptr) std::fill_n(rows.out[r], program.outputs, NAN);
}

}  // namespace stepstream
