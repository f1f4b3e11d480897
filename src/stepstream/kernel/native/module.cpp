// The kernel as Python sees it. Every size is checked here; behind this file nothing is.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "keys.h"
#include "machine.h"
#include "streams.h"
#include "values.h"

namespace nb = nanobind;
using namespace stepstream;

namespace {

// the plan

template <class T>
Span<T> span(const nb::ndarray<const T, nb::c_contig, nb::device::cpu>& a) {
    return {a.data(), (int64_t)a.size()};
}

template <class T>
using Flat = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

void make(Machine* self, Flat<int64_t> code, Flat<float> options, Flat<float> weights, Flat<int32_t> indices,
          Flat<int64_t> state, Flat<int64_t> answers, Flat<float> initial, int64_t features, int64_t outputs,
          int64_t scratch, int64_t input, int64_t mask, int64_t tile) {
    new (self) Machine({span(code), span(options), span(weights), span(indices), span(state), span(answers),
                        span(initial), features, outputs, scratch, input, mask, tile});
}

// sliding(n): a machine around the same program, which Python keeps alive
Machine* slide(const Machine& self, bool by_states, int64_t n, int64_t stride) {
    if (n < 1 || n > 1 << 24 || stride < 1 || stride > n)
        refuse("sliding: expected whole numbers from 1 to 2^24, which a count in a state holds, and no stride above n");
    return new Machine(self, by_states ? Sliding::states : Sliding::recompute, n, stride);
}

// many rows

void step_rows(const Machine& self, Array<float, 2> table, std::optional<Array<const int64_t, 1>> rows,
               Array<const float, 2> x, std::optional<Array<const uint8_t, 1>> mask, Array<float, 2> out,
               Array<uint8_t, 1> finite, bool guard, int64_t threads) {
    const int64_t count = (int64_t)x.shape(0), size = self.state_size(), capacity = (int64_t)table.shape(0);
    if ((int64_t)table.shape(1) != size || (int64_t)x.shape(1) != self.program.features ||
        (int64_t)out.shape(1) != self.program.outputs)
        refuse("expected a table of " + std::to_string(size) + " floats a row, samples of " +
               std::to_string(self.program.features) + " features and answers of " +
               std::to_string(self.program.outputs) + ", got " + std::to_string(table.shape(1)) + ", " +
               std::to_string(x.shape(1)) + " and " + std::to_string(out.shape(1)));
    if ((int64_t)out.shape(0) != count || (int64_t)finite.shape(0) != count ||
        (rows && (int64_t)rows->shape(0) != count) || (mask && (int64_t)mask->shape(0) != count) ||
        (!rows && capacity != count))
        refuse("expected one row, one answer and one flag for each of " + std::to_string(count) + " samples");
    static thread_local Marks marks;
    std::vector<float*> state(count), answers(count);
    std::vector<const float*> samples(count);
    if (rows) {
        marks.bits.resize(std::max<size_t>(marks.bits.size(), (capacity + 63) / 64));
        std::string wrong;
        int64_t done = 0;
        for (; done < count && wrong.empty(); done++) {
            const int64_t r = (*rows)(done);
            if (r < 0 || r >= capacity)
                wrong = "expected rows from 0 to " + std::to_string(capacity - 1) + ", got " + std::to_string(r);
            else if (marks.set(r))
                wrong = "expected each row once in a call, got row " + std::to_string(r) + " twice";
        }
        for (int64_t i = 0; i < done; i++) {
            const int64_t r = (*rows)(i);
            if (r >= 0 && r < capacity) marks.bits[r >> 6] = 0;
        }
        if (!wrong.empty()) refuse(wrong);
    }
    for (int64_t i = 0; i < count; i++) {
        state[i] = table.data() + (rows ? (*rows)(i) : i) * size;
        samples[i] = x.data() + i * self.program.features;
        answers[i] = out.data() + i * self.program.outputs;
    }
    const Rows all = {count, state.data(), samples.data(), mask ? mask->data() : nullptr, answers.data(),
                      finite.data(), guard};
    nb::gil_scoped_release release;
    self.step(all, threads);
}

nb::object rows_array(const std::vector<int64_t>& rows) {
    return nb::steal(PyByteArray_FromStringAndSize((const char*)rows.data(), (Py_ssize_t)(rows.size() * 8)));
}

template <int64_t (KeyTable::*method)(const Key&, uint64_t)>
nb::object change(KeyTable& table, nb::handle keys) {
    std::vector<int64_t> rows;
    const nb::object all = settled(keys);
    each_key(table, all, [](const Key&, uint64_t, Py_ssize_t) {});  // all of them are keys, or nothing changes
    each_key(table, all, [&](const Key& k, uint64_t h, Py_ssize_t) { rows.push_back((table.*method)(k, h)); });
    return rows_array(rows);
}

// one stream

struct Cell {
    nb::object owner;  // of the machine
    const Machine* machine;
    bool heavy;  // so much work that other threads of Python may go on meanwhile
    Floats row, input, answer;
    int64_t age = 0;      // -1: nobody knows
    int64_t samples = 0;  // since the stream was made
    double time = NAN;    // of the last sample that had one
    int64_t cut;          // tumbling(n): n; else 0
    int64_t limit;        // samples that the model has answers for; 0: no limit
    bool asks = false;    // the next restart is not for this path
    std::atomic<bool> busy{false};
};

// The answer of the plainest case, in `answer`; false where anything is out of the ordinary, and nothing has changed.
bool advance(Cell& c, PyObject* x, PyObject* when) {
    if (c.busy.exchange(true, std::memory_order_acquire)) return false;
    struct Leave {
        std::atomic<bool>& busy;
        ~Leave() { busy.store(false, std::memory_order_release); }
    } leave{c.busy};
    const Machine& m = *c.machine;
    int64_t age = c.age;
    if (c.cut && (age < 0 || age >= c.cut)) {
        if (age != c.cut || c.asks) return false;
        age = 0;
    }
    if (c.limit && (age < 0 || age >= c.limit)) return false;
    float* input = c.input.get();
    double time;
    if (!read_time(when, c.time, time) || !read(x, input, m.program.features)) return false;
    for (int64_t i = 0; i < m.program.features; i++)
        if (!std::isfinite(input[i])) return false;
    float *row = c.row.get(), *answer = c.answer.get();
    const float* sample = input;
    uint8_t good = 0;
    float* fresh = nullptr;
    if (age != c.age) {  // a window begins; the old row is kept until all is well
        fresh = row + padded(m.state_size());
        m.reset(fresh);
    }
    float* used = fresh == nullptr ? row : fresh;
    const Rows one = {1, &used, &sample, nullptr, &answer, &good, true};
    if (c.heavy) {
        nb::gil_scoped_release release;
        m.step(one, 1);
    } else {
        m.step(one, 1);
    }
    if (!good) return false;
    if (fresh != nullptr) std::copy_n(fresh, m.state_size(), row);
    c.age = age < 0 ? age : age + 1;
    c.samples++;
    if (!std::isnan(time)) c.time = time;
    return true;
}

// `answer(cell)` for a call that Python makes without nanobind between
template <class F>
PyObject* called(PyObject* self, Py_ssize_t count, Py_ssize_t expected, F answer) {
    if (count != expected || !nb::inst_ready(self)) {
        PyErr_SetString(PyExc_TypeError, "expected a cell, a sample, its time and, for step_into, an array");
        return nullptr;
    }
    try {
        return answer(*nb::inst_ptr<Cell>(self));
    } catch (const std::bad_alloc&) {
        return PyErr_NoMemory();
    } catch (const std::exception& e) {
        PyErr_SetString(PyExc_RuntimeError, e.what());
        return nullptr;
    }
}

PyObject* cell_step(PyObject* self, PyObject* const* args, Py_ssize_t count) {
    return called(self, count, 2, [&](Cell& c) -> PyObject* {
        if (!advance(c, args[0], args[1])) Py_RETURN_NONE;
        return PyFloat_FromDouble((double)c.answer[0]);
    });
}

PyObject* cell_step_into(PyObject* self, PyObject* const* args, Py_ssize_t count) {
    return called(self, count, 3, [&](Cell& c) -> PyObject* {
        const Py_ssize_t n = (Py_ssize_t)(c.machine->program.outputs * sizeof(float));
        Py_buffer view;
        if (PyObject_GetBuffer(args[2], &view, PyBUF_WRITABLE) != 0) return nullptr;
        struct Release {
            Py_buffer& view;
            ~Release() { PyBuffer_Release(&view); }
        } release{view};
        if (view.len != n) {
            PyErr_SetString(PyExc_ValueError, "step_into: expected an array for all outputs");
            return nullptr;
        }
        const bool done = advance(c, args[0], args[1]);
        if (done) std::memcpy(view.buf, c.answer.get(), n);
        return PyBool_FromLong(done);
    });
}

PyMethodDef cell_methods[] = {
    {"step_into", (PyCFunction)(void*)cell_step_into, METH_FASTCALL,
     "The same for any number of outputs, written side by side to a float32 array; whether it was done."},
    {"step", (PyCFunction)(void*)cell_step, METH_FASTCALL,
     "One sample of one stream and its time -> the answer of a model with one unit; None where a slower way must look "
     "at it."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot cell_slots[] = {{Py_tp_methods, cell_methods}, {0, nullptr}};

void make_cell(Cell* self, nb::object machine, int64_t cut, int64_t limit) {
    const Machine& m = nb::cast<const Machine&>(machine);
    new (self) Cell();
    self->owner = machine, self->machine = &m, self->cut = cut, self->limit = limit;
    self->heavy = m.work() > 1e6;
    self->row = aligned_floats((cut ? 2 : 1) * padded(m.state_size()));  // a window that begins has one beside the old
    self->input = aligned_floats(padded(m.program.features));
    self->answer = aligned_floats(padded(m.program.outputs));
    m.reset(self->row.get());
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // what a cache still holds when Python ends is no leak
    m.attr("ISA") = kernel().name;
    nb::class_<Machine>(m, "Machine")
        .def("__init__", make)
        .def("sliding", slide, nb::rv_policy::take_ownership, nb::keep_alive<0, 1>())
        .def_prop_ro("state_size", &Machine::state_size)
        .def_prop_ro("outputs", [](const Machine& self) { return self.program.outputs; })
        .def("reset", [](const Machine& self, Array<float, 2> rows) {
            if ((int64_t)rows.shape(1) != self.state_size()) refuse("reset: wrong shape");
            for (size_t i = 0; i < rows.shape(0); i++) self.reset(rows.data() + i * rows.shape(1));
        }, nb::arg("rows").noconvert())
        .def("step", step_rows, nb::arg("table").noconvert(), nb::arg("rows").none(), nb::arg("x"),
             nb::arg("mask").none(),
             nb::arg("out").noconvert(), nb::arg("finite").noconvert(), nb::arg("guard"), nb::arg("threads"));
    nb::class_<Cell>(m, "Cell", nb::type_slots(cell_slots))
        .def("__init__", make_cell)
        .def_ro("age", &Cell::age)
        .def_rw("asks", &Cell::asks)
        // all of a state in one call, which no signal and no other thread of Python can cut in two
        .def("read", [](const Cell& c, Array<float, 1> row) {
            if ((int64_t)row.shape(0) != c.machine->state_size()) refuse("read: wrong size");
            std::copy_n(c.row.get(), row.shape(0), row.data());
            return nb::make_tuple(c.age, c.samples, c.time);
        }, nb::arg("row").noconvert())
        .def("write", [](Cell& c, Array<const float, 1> row, int64_t age, int64_t samples, double time) {
            if ((int64_t)row.shape(0) != c.machine->state_size()) refuse("write: wrong size");
            std::copy_n(row.data(), row.shape(0), c.row.get());
            c.age = age, c.samples = samples, c.time = time;
        })
        .def("acquire", [](Cell& c, bool) { return !c.busy.exchange(true, std::memory_order_acquire); },
             nb::arg("blocking") = true)
        .def("release", [](Cell& c) { c.busy.store(false, std::memory_order_release); });
    nb::class_<KeyTable>(m, "KeyTable")
        .def(nb::init<uint64_t, uint64_t>())
        .def("find", [](KeyTable& table, nb::handle keys) {
            std::vector<int64_t> rows;
            each_key(table, settled(keys), [&](const Key& k, uint64_t h, Py_ssize_t) {
                rows.push_back(table.find(k, h));
            });
            return rows_array(rows);
        })
        .def("insert", change<&KeyTable::insert>)
        .def("remove", change<&KeyTable::remove>)
        .def("__len__", &KeyTable::size)
        .def_prop_ro("rows", &KeyTable::rows)
        .def("key", [](const KeyTable& table, int64_t row) {
            if (row < 0 || row >= table.rows() || table.key(row).kind == KeyKind::none)
                throw nb::key_error(("no key has row " + std::to_string(row)).c_str());
            return key_to_python(table.key(row));
        });
    bind_streams(m);
    m.def("activate", [](int64_t kind, Array<const float, 1> options, Array<const float, 1> x, Array<float, 1> out) {
        const int64_t n = (int64_t)x.shape(0);
        if (options.shape(0) != 3 || out.shape(0) != x.shape(0) || n % BLOCK || kind < 0 ||
            kind >= (int64_t)Activation::glu)  // which has half as many answers
            refuse("activate: wrong shapes");
        kernel().activate((Activation)kind, options.data(), x.data(), out.data(), n, n, 1, n);
    });
    m.def("peak", [](int64_t rounds) {
        nb::gil_scoped_release release;
        return kernel().peak(rounds);
    });
}
