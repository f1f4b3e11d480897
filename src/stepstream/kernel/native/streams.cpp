// The short way of live/engine.py: samples with nothing out of the ordinary. Whatever else is left to the long way, which
// has all the rules; so both must agree on what is plain, and tests compare them.
#include "streams.h"

#include <nanobind/stl/optional.h>

#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "machine.h"
#include "values.h"

namespace stepstream {
namespace {

constexpr uint32_t CHANGED = 2, HERE = 8;      // live/records.py has them too
constexpr int64_t KEPT = (int64_t)1 << 22;     // floats of working memory from call to call
constexpr int64_t MAX_SEQ = (int64_t)1 << 62;  // live/incoming.py has it too
constexpr bool LITTLE_ENDIAN_HERE = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;  // as a journal is

// Where the numbers of a stream lie in its record of the table: live/records.py, `fields`, without inputs without time.
struct Layout {
    int64_t stride, remember, outputs, keep, features;
    int64_t ages() const { return 32 + 8 * remember; }
    int64_t answers() const { return 32 + 16 * remember; }
    int64_t flags() const { return answers() + 4 * remember * outputs; }
    int64_t kept() const { return flags() + 4; }
    int64_t newest() const { return kept() + 4; }
    int64_t end() const { return keep ? newest() + 4 * keep * features : kept(); }
};

// What a windowing asks of a stream.
struct Rules {
    int64_t cut;     // tumbling(n): n; else 0
    double gap;      // session(gap): seconds; else 0
    double every;    // seconds from sample to sample where a missing one matters; else 0
    int64_t limit;   // samples that the model has answers for; 0: no limit
    int64_t whole;   // the age at which an answer is complete, and with `exact` the only one
    bool exact;
    int64_t most;    // samples that an answer can have seen
    int64_t length;  // that the model was trained on; -1: unknown
};

struct Streams {
    nb::object owner_of_machine, owner_of_keys, owner_of_state, owner_of_meta, result;
    const Machine* machine;
    KeyTable* keys;
    float* state;
    uint8_t* meta;
    int64_t capacity;
    Layout layout;
    Rules rules;
    bool gap_is_error;
    bool decides;  // the last of a model's answers is a class or -1, and no output
    bool asks = false;  // the next restart is not for this path
    double now = -std::numeric_limits<double>::infinity();
    double sweep = now;  // from then on somebody slower has things to do
    int64_t samples = 0, gaps = 0;  // seen here
    Floats input, answer, fresh, before;
    int64_t room = 0;  // floats in `before`
    Marks marks;

    float* row(int64_t r) const { return state + r * machine->state_size(); }
    template <class T>
    T& field(int64_t r, int64_t offset) const { return *(T*)(meta + r * layout.stride + offset); }
    int64_t& age(int64_t r) const { return field<int64_t>(r, 0); }
    double& time(int64_t r) const { return field<double>(r, 16); }
    int64_t& seq(int64_t r) const { return field<int64_t>(r, 32); }

    bool tick(double clock) {
        if (!std::isfinite(clock)) return false;
        clock = std::max(clock, std::nextafter(now, std::numeric_limits<double>::infinity()));
        if (clock >= sweep) return false;
        now = clock;
        return true;
    }

    // Whether a sample is plain; its time, which session(gap) takes from the clock, and whether the state restarts.
    bool plain(int64_t r, int64_t number, double& when, bool& restart, int64_t& missing) const {
        const int64_t old = age(r), last = seq(r);
        missing = 0;
        if (number >= 0) {
            if (number <= last) return false;
            if (last >= 0) missing = number - last - 1;
            if (missing && gap_is_error) return false;
        }
        if (rules.every > 0 && std::isnan(when)) return false;
        if (rules.gap > 0 && std::isnan(when)) when = std::fmax(now, time(r));
        if (when < time(r)) return false;
        const bool apart = rules.gap > 0 && when - time(r) > rules.gap;
        // live/missing.py has the same formula: another one has other last bits
        if (rules.every > 0 && !apart && std::floor((when - time(r)) / rules.every + 0.5) - 1 > 0) return false;
        restart = (rules.cut && old >= rules.cut) || apart;
        if (restart && asks) return false;
        if (rules.cut && old < 0) return false;
        return !(rules.limit && !restart && (old < 0 || old >= rules.limit));
    }

    // After a step: what the stream carries beside its state.
    void note(int64_t r, int64_t number, double when, bool restart, const float* in, const float* out) const {
        int64_t& a = age(r);
        if (restart) a = 0;
        if (a >= 0) a++;
        const int64_t seen = field<int64_t>(r, 8)++;
        if (layout.keep) {
            uint32_t& kept = field<uint32_t>(r, layout.kept());
            kept = std::min<uint32_t>(kept + 1, layout.keep);
            std::copy_n(in, layout.features, &field<float>(r, layout.newest()) + seen % layout.keep * layout.features);
        }
        if (!std::isnan(when)) time(r) = when;
        field<double>(r, 24) = now;
        field<uint32_t>(r, layout.flags()) = HERE | CHANGED;
        if (number < 0) return;
        const int64_t n = layout.remember, k = layout.outputs;
        int64_t *seqs = &seq(r), *ages = &field<int64_t>(r, layout.ages());
        float* answers = &field<float>(r, layout.answers());
        for (int64_t i = n - 1; i > 0; i--) {
            seqs[i] = seqs[i - 1], ages[i] = ages[i - 1];
            std::copy_n(answers + (i - 1) * k, k, answers + i * k);
        }
        seqs[0] = number, ages[0] = a;
        std::copy_n(out, k, answers);
    }

    bool complete(int64_t age) const { return rules.exact ? age == rules.whole : age >= rules.whole; }
    bool beyond(int64_t age) const {
        return rules.length >= 0 && (age < 0 || std::min(age, rules.most) > rules.length);
    }
};

// None, or a whole number from 0 that fits
bool read_seq(PyObject* given, int64_t& number) {
    number = -1;
    if (given == Py_None) return true;
    if (!PyLong_CheckExact(given)) return false;
    int overflow = 0;
    number = PyLong_AsLongLongAndOverflow(given, &overflow);
    return !overflow && number >= 0 && number <= MAX_SEQ;
}

// one sample: key, x, seq, time, clock -> Result, its value as bytes where there are several outputs; or None
PyObject* step(PyObject* self, PyObject* const* args, Py_ssize_t count) {
    Streams& t = *nb::inst_ptr<Streams>(self);
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "step: expected a key, a sample, a number, a time and the clock's");
        return nullptr;
    }
    int64_t r, number, missing;
    PyObject* key = args[0];
    if (PyUnicode_CheckExact(key) || PyBytes_CheckExact(key) || PyLong_CheckExact(key)) {
        try {
            std::string store;
            const Key k = key_of(key, store);
            r = t.keys->find(k, t.keys->hash(k));
        } catch (const std::exception&) {
            PyErr_Clear();
            Py_RETURN_NONE;
        }
    } else {
        Py_RETURN_NONE;
    }
    const Machine& m = *t.machine;
    const int64_t features = m.program.features, outputs = m.program.outputs;
    float* input = t.input.get();
    double when;
    bool restart = false;
    if (r < 0 || r >= t.capacity || !PyFloat_CheckExact(args[4]) || !read_seq(args[2], number) ||
        !read_time(args[3], -std::numeric_limits<double>::infinity(), when) ||
        !read(args[1], input, features))
        Py_RETURN_NONE;
    for (int64_t i = 0; i < features; i++)
        if (!std::isfinite(input[i])) Py_RETURN_NONE;
    const double before = t.now;
    const auto declined = [&] {
        t.now = before;
        return Py_NewRef(Py_None);
    };
    if (!t.tick(PyFloat_AS_DOUBLE(args[4])) || !t.plain(r, number, when, restart, missing)) return declined();
    float *row = t.row(r), *answer = t.answer.get(), *used = row;
    if (restart) m.reset(used = t.fresh.get());  // the old row is kept until all is well
    const float* sample = input;
    uint8_t good = 0;
    m.step({1, &used, &sample, nullptr, &answer, &good, true}, 1);
    if (!good) return declined();
    if (restart) std::copy_n(used, m.state_size(), row);
    t.note(r, number, when, restart, input, answer);
    t.samples++, t.gaps += missing;
    PyTypeObject* type = (PyTypeObject*)t.result.ptr();
    PyObject* out = type->tp_alloc(type, 9);
    if (out == nullptr) return nullptr;
    const int64_t age = t.age(r), values = outputs - t.decides;
    PyObject* value = values == 1 ? PyFloat_FromDouble((double)answer[0])
                                  : PyBytes_FromStringAndSize((const char*)answer, values * sizeof(float));
    const float decision = t.decides ? answer[values] : -1.0f;
    const auto flag = [](bool b) { return Py_NewRef(b ? Py_True : Py_False); };
    PyTuple_SET_ITEM(out, 0, value);
    PyTuple_SET_ITEM(out, 1, Py_NewRef(key));
    PyTuple_SET_ITEM(out, 2, age < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(age));
    PyTuple_SET_ITEM(out, 3, Py_NewRef(args[2]));
    PyTuple_SET_ITEM(out, 4, flag(t.complete(age)));
    PyTuple_SET_ITEM(out, 5, flag(t.beyond(age)));
    PyTuple_SET_ITEM(out, 6, flag(false));
    PyTuple_SET_ITEM(out, 7, PyLong_FromLongLong(missing));
    PyTuple_SET_ITEM(out, 8, decision < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong((int64_t)decision));
    for (int i = 0; i < 9; i++)
        if (PyTuple_GET_ITEM(out, i) == nullptr) {
            Py_DECREF(out);
            return nullptr;
        }
    return out;
}

// n samples; seq and time may be null. `numbers`: all of seq are numbers, or -1 is for none.
struct Samples {
    int64_t n;
    const float* x;
    const int64_t* seq;
    const double* time;
    bool numbers;
};

// Room for n answers: the times as they are used, NaN for none, and the rest as in live/results.py. The last three may
// be null.
struct Answers {
    double* times;
    int64_t* missing;
    float* values;
    int64_t* ages;
    bool *complete, *beyond;
};

// Step samples of rows that are there, all of them plain; or false, and nothing has changed.
bool step_all(Streams& t, const Samples& s, const int64_t* rows, const Answers& to) {
    const Machine& m = *t.machine;
    const int64_t n = s.n, features = m.program.features, outputs = m.program.outputs, size = m.state_size();
    bool good = true;
    for (int64_t i = 0; i < n * features; i++) good &= std::isfinite(s.x[i]);
    if (!good) return false;
    std::vector<float*> state(n), answers(n);
    std::vector<const float*> samples(n);
    std::vector<uint8_t> restarts(n), finite(n);
    t.marks.bits.resize(std::max<size_t>(t.marks.bits.size(), (t.capacity + 63) / 64));
    if (t.room < n * size) t.before = aligned_floats(n * size, false), t.room = n * size;
    const int64_t stride = t.layout.stride;
    std::vector<uint8_t> notes(n * stride);
    // Some samples at a time, up to a stream's second one: what is copied for going back is near when it is stepped.
    constexpr int64_t SOME = 256;
    int64_t done = 0, stepped = 0;
    while (done < n && good) {
        int64_t end = done;
        for (; end < n && end < done + SOME && good; end++) {
            const int64_t r = rows[end];
            if (t.marks.set(r)) break;
            bool restart = false;
            double when = s.time ? s.time[end] : NAN;
            const int64_t number = s.seq ? s.seq[end] : -1;
            good = !(s.time && !std::isfinite(when)) &&
                   !(s.seq && (number < (s.numbers ? 0 : -1) || number > MAX_SEQ)) &&
                   t.plain(r, number, when, restart, to.missing[end]);
            to.times[end] = when, restarts[end] = restart, state[end] = t.row(r);
            samples[end] = s.x + end * features, answers[end] = to.values + end * outputs;
        }
        for (int64_t i = done; i < end; i++) t.marks.bits[rows[i] >> 6] = 0;
        if (!good) break;
        for (int64_t i = done; i < end; i++) {
            if (i + 8 < end)
                for (int64_t at = 0; at < size && at < 512; at += BLOCK) __builtin_prefetch(state[i + 8] + at, 1);
            std::copy_n(state[i], size, t.before.get() + i * size);
            std::copy_n(t.meta + rows[i] * stride, stride, notes.data() + i * stride);
            if (restarts[i]) m.reset(state[i]);
        }
        stepped = end;
        m.step({end - done, state.data() + done, samples.data() + done, nullptr, answers.data() + done,
                finite.data() + done, true}, 1);
        good = std::all_of(finite.begin() + done, finite.begin() + end, [](uint8_t f) { return f != 0; });
        for (int64_t i = done; i < end && good; i++) {
            t.note(rows[i], s.seq ? s.seq[i] : -1, to.times[i], restarts[i], samples[i], answers[i]);
            if (!to.ages) continue;
            const int64_t age = t.age(rows[i]);
            to.ages[i] = age, to.complete[i] = t.complete(age), to.beyond[i] = t.beyond(age);
        }
        done = end;
    }
    if (!good)
        for (int64_t i = stepped - 1; i >= 0; i--) {  // the first copy of a stream is put back last
            std::copy_n(t.before.get() + i * size, size, state[i]);
            std::copy_n(notes.data() + i * stride, stride, t.meta + rows[i] * stride);
        }
    if (t.room > KEPT) t.before.reset(), t.room = 0;
    if (!good) return false;
    t.samples += n;
    for (int64_t i = 0; i < n; i++) t.gaps += to.missing[i];
    return true;
}

// The row of a key, on its way from memory; whether it is there.
bool find(const Streams& t, const Key& key, uint64_t hash, int64_t& row) {
    row = t.keys->find(key, hash);
    if (row < 0 || row >= t.capacity) return false;
    __builtin_prefetch(t.meta + row * t.layout.stride, 1);
    return true;
}

template <class T>
using Column = std::optional<Array<const T, 1>>;

bool step_many(Streams& t, nb::handle keys, Array<const float, 2> x, Column<int64_t> seq, Column<double> given,
               double clock, Array<int64_t, 1> rows, Array<double, 1> times, Array<float, 2> values,
               Array<int64_t, 1> ages, Array<bool, 1> complete, Array<bool, 1> beyond, Array<int64_t, 1> missing) {
    const int64_t n = (int64_t)x.shape(0);
    const auto fits = [&](const auto& a) { return (int64_t)a.shape(0) == n; };
    if ((int64_t)x.shape(1) != t.machine->program.features || !fits(values) ||
        (int64_t)values.shape(1) != t.machine->program.outputs || !fits(rows) || !fits(times) || !fits(ages) ||
        !fits(complete) || !fits(beyond) || !fits(missing) || (seq && !fits(*seq)) || (given && !fits(*given)))
        refuse("step_many: wrong shapes");
    bool good = true;
    try {
        const nb::object all = settled(keys);
        if (PyTuple_GET_SIZE(all.ptr()) != n) return false;
        each_key(*t.keys, all, [&](const Key& k, uint64_t h, int64_t i) { good &= find(t, k, h, rows(i)); });
    } catch (const std::exception&) {  // what is no key is not plain
        PyErr_Clear();
        return false;
    }
    if (!good) return false;
    nb::gil_scoped_release release;
    const double before = t.now;
    if (t.tick(clock) &&
        step_all(t, {n, x.data(), seq ? seq->data() : nullptr, given ? given->data() : nullptr, true}, rows.data(),
                 {times.data(), missing.data(), values.data(), ages.data(), complete.data(), beyond.data()}))
        return true;
    t.now = before;
    return false;
}

// Bytes one after the other: where `count` of T begin, which lie anywhere; or null, from the first time on that there
// are not so many.
struct Bytes {
    const char *at, *end;
    template <class T>
    const char* take(int64_t count) {
        if (count > (end - at) / (int64_t)sizeof(T)) return at = end = nullptr;
        return std::exchange(at, at + count * (int64_t)sizeof(T));
    }
};

template <class T>
T read_at(const char* from, int64_t i = 0) {
    T value;
    std::memcpy(&value, from + i * (int64_t)sizeof(T), sizeof(T));
    return value;
}

// A key as live/records.py writes it; of no kind, and in no table, where it is none, or a number beyond eight bytes.
Key written(std::string_view data, std::string& store) {
    const char letter = data.empty() ? 0 : data[0];
    if (letter == 's') return {KeyKind::text, data.substr(1)};
    if (letter == 'b') return {KeyKind::bytes, data.substr(1)};
    long long value = 0;
    const char* end = data.data() + data.size();
    if (letter != 'i') return {};
    const auto found = std::from_chars(data.data() + 1, end, value);
    if (found.ec != std::errc() || found.ptr != end) return {};
    store.assign((const char*)&value, sizeof value);
    return {KeyKind::integer, store};
}

// The operation that begins at byte `at` of a journal's entry (live/journal.py has the form), for those streams that do
// not include entry `number` yet; returns where the next one begins. Or `at`, where it is not samples that are all plain
// of streams that are all there: then nothing has changed, and somebody slower looks at it.
int64_t replay(Streams& t, nb::bytes entry, int64_t at, int64_t number, Array<const int64_t, 1> included) {
    if ((int64_t)included.shape(0) != t.capacity || at < 0 || at > (int64_t)entry.size())
        refuse("replay: wrong shapes");
    nb::gil_scoped_release release;
    const int64_t features = t.machine->program.features;
    const char* begin = entry.c_str();
    Bytes b = {begin + at, begin + entry.size()};
    const char *letter = b.take<char>(1), *clock = b.take<double>(1), *count = b.take<uint32_t>(1),
               *flags = b.take<uint8_t>(1);
    if (!LITTLE_ENDIAN_HERE || !flags || *letter != 's' || *flags & ~3) return at;
    const double now = read_at<double>(clock);
    const int64_t n = read_at<uint32_t>(count);
    const char* sizes = b.take<uint16_t>(n);
    if (n == 0 || !sizes || !std::isfinite(now)) return at;
    int64_t length = 0;
    for (int64_t i = 0; i < n; i++) length += read_at<uint16_t>(sizes, i);
    const char *key = b.take<char>(length), *x = b.take<float>(n * features);
    const char *seq = *flags & 1 ? b.take<int64_t>(n) : nullptr, *time = *flags & 2 ? b.take<double>(n) : nullptr;
    if (!b.at) return at;
    std::vector<int64_t> rows(n), numbers;
    bool good = true;
    each_key(*t.keys, n, [&](int64_t i, std::string& store) {
        const uint16_t size = read_at<uint16_t>(sizes, i);
        return written({std::exchange(key, key + size), size}, store);
    }, [&](const Key& k, uint64_t h, int64_t i) {
        good &= find(t, k, h, rows[i]);
    });
    if (!good) return at;
    std::vector<float> samples(n * features);
    std::vector<double> times;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (included.data()[rows[i]] >= number) continue;
        rows[kept] = rows[i];
        std::memcpy(samples.data() + kept * features, x + i * features * sizeof(float), features * sizeof(float));
        if (seq) numbers.push_back(read_at<int64_t>(seq, i));
        if (time) times.push_back(read_at<double>(time, i));
        kept++;
    }
    std::vector<double> used(kept);
    std::vector<int64_t> missing(kept);
    std::vector<float> values(kept * t.machine->program.outputs);
    // the clock of then, as it was; it says nothing of what the clock of now will show
    const double before = std::exchange(t.now, now);
    const bool done = kept == 0 || step_all(t, {kept, samples.data(), seq ? numbers.data() : nullptr,
                                                time ? times.data() : nullptr, false}, rows.data(),
                                            {used.data(), missing.data(), values.data(), nullptr, nullptr, nullptr});
    t.now = before;
    return done ? b.at - begin : at;
}

void make(Streams* self, nb::object machine, nb::object keys, Array<float, 2> state, Array<uint8_t, 2> meta,
          nb::object result, int64_t remember, int64_t keep, int64_t cut, double gap, double every, int64_t limit,
          int64_t whole, bool exact, int64_t most, int64_t length, bool gap_is_error, bool decides) {
    const Machine& m = nb::cast<const Machine&>(machine);
    const Layout layout = {(int64_t)meta.shape(1), remember, m.program.outputs, keep, m.program.features};
    if ((int64_t)state.shape(1) != m.state_size() || state.shape(0) != meta.shape(0) || remember < 1 ||
        keep < 0 || decides >= m.program.outputs || layout.end() > layout.stride || layout.stride % 8 || !PyType_Check(result.ptr()) ||
        !PyType_IsSubtype((PyTypeObject*)result.ptr(), &PyTuple_Type))
        refuse("Streams: wrong shapes");
    new (self) Streams();
    self->owner_of_machine = machine, self->owner_of_keys = keys, self->result = result;
    self->owner_of_state = nb::cast(state), self->owner_of_meta = nb::cast(meta);
    self->machine = &m, self->keys = &nb::cast<KeyTable&>(keys);
    self->state = state.data(), self->meta = meta.data(), self->capacity = (int64_t)state.shape(0);
    self->layout = layout, self->gap_is_error = gap_is_error, self->decides = decides;
    self->rules = {cut, gap, every, limit, whole, exact, most, length};
    self->input = aligned_floats(padded(m.program.features));
    self->answer = aligned_floats(padded(m.program.outputs));
    self->fresh = aligned_floats(padded(m.state_size()));
}

PyMethodDef methods[] = {
    {"step", (PyCFunction)(void*)step, METH_FASTCALL,
     "Key, sample, number, time and clock -> Result; None where a slower way must look at it."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot slots[] = {{Py_tp_methods, methods}, {0, nullptr}};

}  // namespace

void bind_streams(nb::module_& m) {
    nb::class_<Streams>(m, "Streams", nb::type_slots(slots))
        .def("__init__", make, nb::arg("machine"), nb::arg("keys"), nb::arg("state").noconvert(), nb::arg("meta").noconvert(),
             nb::arg("result"), nb::arg("remember"), nb::arg("keep"), nb::arg("cut"), nb::arg("gap"), nb::arg("every"), nb::arg("limit"), nb::arg("whole"),
             nb::arg("exact"), nb::arg("most"), nb::arg("length"), nb::arg("gap_is_error"), nb::arg("decides"))
        .def("step_many", step_many, nb::arg("keys"), nb::arg("x").noconvert(), nb::arg("seq").none(), nb::arg("time").none(),
             nb::arg("clock"), nb::arg("rows").noconvert(), nb::arg("times").noconvert(), nb::arg("values").noconvert(),
             nb::arg("ages").noconvert(), nb::arg("complete").noconvert(), nb::arg("beyond").noconvert(),
             nb::arg("missing").noconvert())
        .def("replay", replay, nb::arg("entry"), nb::arg("at"), nb::arg("number"), nb::arg("included").noconvert())
        .def_rw("asks", &Streams::asks)
        .def_prop_ro("sample", [](const Streams& t) {  // the last one that `step` has read, as float32
            return nb::bytes(t.input.get(), t.machine->program.features * sizeof(float));
        })
        .def_prop_rw("every", [](const Streams& t) { return t.rules.every; },
                     [](Streams& t, double every) { t.rules.every = every; })
        .def_rw("gap_is_error", &Streams::gap_is_error)
        .def_rw("samples", &Streams::samples)
        .def_rw("gaps", &Streams::gaps)
        .def_rw("now", &Streams::now)
        .def_rw("sweep", &Streams::sweep);
}

}  // namespace stepstream
