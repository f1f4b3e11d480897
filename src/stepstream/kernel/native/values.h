// Values of Python as the kernel takes them: arrays, keys, samples, times. For files that bind.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "keys.h"

namespace stepstream {

namespace nb = nanobind;

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

[[noreturn]] inline void refuse(const std::string& message) { throw nb::value_error(message.c_str()); }

struct Marks {  // which rows of a table a call names
    std::vector<uint64_t> bits;
    bool set(int64_t i) {
        uint64_t& word = bits[i >> 6];
        const uint64_t bit = (uint64_t)1 << (i & 63);
        const bool was = word & bit;
        word |= bit;
        return was;
    }
};

// keys

constexpr size_t MAX_KEY_BYTES = 1024;  // limits.py has it too
constexpr size_t MAX_KEY_DIGITS = 256;  // hexadecimal, of an int
constexpr int AHEAD = 32;               // keys on their way from memory

inline Key short_enough(const Key& key) {
    if (key.data.size() > MAX_KEY_BYTES)
        refuse("expected a key of at most " + std::to_string(MAX_KEY_BYTES) + " bytes, got " + std::to_string(key.data.size()));
    return key;
}

// A Python key as bytes. `store` holds those of an integer. Throws for what is no key.
inline Key key_of(PyObject* x, std::string& store) {
    if (PyUnicode_Check(x)) {
        Py_ssize_t n = 0;
        const char* data = PyUnicode_AsUTF8AndSize(x, &n);
        if (data == nullptr) {
            PyErr_Clear();
            refuse("expected a key of whole characters, got half a surrogate pair");
        }
        return short_enough({KeyKind::text, {data, (size_t)n}});
    }
    if (PyBytes_Check(x)) return short_enough({KeyKind::bytes, {PyBytes_AS_STRING(x), (size_t)PyBytes_GET_SIZE(x)}});
    if (PyIndex_Check(x) && !PyBool_Check(x)) {
        const nb::object whole = nb::steal(PyNumber_Index(x));
        if (!whole.is_valid()) throw nb::python_error();
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow);
        if (overflow == 0) {
            store.assign((const char*)&value, sizeof value);
        } else {  // its hexadecimal digits, which are longer than eight bytes
            const nb::object digits = nb::steal(PyNumber_ToBase(whole.ptr(), 16));
            if (!digits.is_valid()) throw nb::python_error();
            store = nb::cast<std::string>(digits);
            if (store.size() > MAX_KEY_DIGITS + (overflow < 0 ? 3 : 2))
                refuse("expected an int of at most 1,024 bits as a key, got a larger one");
        }
        return {KeyKind::integer, store};
    }
    throw nb::type_error((std::string("expected a key of type str, bytes or int, got ") + Py_TYPE(x)->tp_name).c_str());
}

inline nb::object key_to_python(const Key& key) {
    if (key.kind == KeyKind::text) return nb::str(key.data.data(), key.data.size());
    if (key.kind == KeyKind::bytes) return nb::bytes(key.data.data(), key.data.size());
    if (key.data.size() == sizeof(long long)) {
        long long value;
        std::memcpy(&value, key.data.data(), sizeof value);
        return nb::steal(PyLong_FromLongLong(value));
    }
    return nb::steal(PyLong_FromString(std::string(key.data).c_str(), nullptr, 16));
}

// What was given as keys, each str, bytes or int, so that no code of anybody's runs any more.
inline nb::object settled(nb::handle keys) {
    for (const bool one : {PyUnicode_Check(keys.ptr()) != 0, PyBytes_Check(keys.ptr()) != 0,
                           PyByteArray_Check(keys.ptr()) != 0, PyMemoryView_Check(keys.ptr()) != 0})
        if (one) throw nb::type_error("expected a sequence of keys, got one key");
    const nb::object list = nb::steal(PySequence_List(keys.ptr()));
    if (!list.is_valid()) throw nb::python_error();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list.ptr()); i++) {
        PyObject* key = PyList_GET_ITEM(list.ptr(), i);
        if (PyUnicode_Check(key) || PyBytes_Check(key) || PyLong_Check(key) || !PyIndex_Check(key)) continue;
        PyObject* whole = PyNumber_Index(key);
        if (whole == nullptr) throw nb::python_error();
        PyList_SetItem(list.ptr(), i, whole);
    }
    return nb::steal(PyList_AsTuple(list.ptr()));
}

// f(key, hash, i) for each of n keys, a few of them on their way from memory at a time. get(i, store) -> the key, whose
// bytes may lie in `store`.
template <class Get, class F>
inline void each_key(const KeyTable& table, int64_t n, Get get, F f) {
    std::string store[AHEAD];
    Key key[AHEAD];
    uint64_t hash[AHEAD];
    for (int64_t first = 0; first < n; first += AHEAD) {
        const int count = (int)std::min<int64_t>(AHEAD, n - first);
        for (int i = 0; i < count; i++) {
            key[i] = get(first + i, store[i]);
            hash[i] = table.hash(key[i]);
            table.prefetch(hash[i]);
        }
        for (int i = 0; i < count; i++) table.prefetch_entry(hash[i]);
        for (int i = 0; i < count; i++) f(key[i], hash[i], first + i);
    }
}

// the same for those that `settled` gave
template <class F>
inline void each_key(const KeyTable& table, nb::handle all, F f) {
    const int64_t n = PyTuple_GET_SIZE(all.ptr());
    each_key(table, n, [&](int64_t i, std::string& store) {
        if (i + AHEAD < n) {
            const char* next = (const char*)PyTuple_GET_ITEM(all.ptr(), i + AHEAD);
            __builtin_prefetch(next);
            __builtin_prefetch(next + 64);  // the end of a short string
        }
        return key_of(PyTuple_GET_ITEM(all.ptr(), i), store);
    }, f);
}

inline PyTypeObject* ndarray_type() {
    static PyObject* const type = nb::module_::import_("numpy").attr("ndarray").inc_ref().ptr();
    return (PyTypeObject*)type;
}

// A sample as float32, or false: then somebody slower says what is wrong with it.
inline bool read(PyObject* x, float* to, int64_t n) {
    if (PyList_CheckExact(x) || PyTuple_CheckExact(x)) {
        if (PySequence_Fast_GET_SIZE(x) != n) return false;
        PyObject** items = PySequence_Fast_ITEMS(x);
        for (int64_t i = 0; i < n; i++) {
            PyObject* item = items[i];
            if (PyFloat_CheckExact(item)) {
                to[i] = (float)PyFloat_AS_DOUBLE(item);
            } else if (PyLong_CheckExact(item)) {
                const double value = PyLong_AsDouble(item);
                if (value == -1.0 && PyErr_Occurred()) {
                    PyErr_Clear();
                    return false;
                }
                to[i] = (float)value;
            } else {
                return false;
            }
        }
        return true;
    }
    if (Py_TYPE(x) != ndarray_type()) return false;  // not its subclasses: some mask what must not be read
    Py_buffer view;
    if (PyObject_GetBuffer(x, &view, PyBUF_FORMAT | PyBUF_ND) != 0) {
        PyErr_Clear();  // no plain memory
        return false;
    }
    const bool shape = view.ndim >= 1 && view.ndim <= 3 && view.shape[view.ndim - 1] == n &&
                       std::all_of(view.shape, view.shape + view.ndim - 1, [](Py_ssize_t s) { return s == 1; });
    const bool single = std::strcmp(view.format, "f") == 0, twice = std::strcmp(view.format, "d") == 0;
    const char* from = (const char*)view.buf;
    if (shape && single)
        std::memcpy(to, from, n * sizeof(float));
    else if (shape && twice)
        for (int64_t i = 0; i < n; i++) {
            double value;  // may lie anywhere
            std::memcpy(&value, from + i * sizeof value, sizeof value);
            to[i] = (float)value;
        }
    PyBuffer_Release(&view);
    return shape && (single || twice);
}

// A time that is not before the last one, NaN for None; or false.
inline bool read_time(PyObject* given, double last, double& time) {
    time = NAN;
    if (given == Py_None) return true;
    if (PyFloat_CheckExact(given)) {
        time = PyFloat_AS_DOUBLE(given);
    } else if (PyLong_CheckExact(given)) {
        time = PyLong_AsDouble(given);
        if (time == -1.0 && PyErr_Occurred()) PyErr_Clear(), time = NAN;
    }
    return std::isfinite(time) && !(time < last);
}

}  // namespace stepstream
