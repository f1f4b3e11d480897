#include "keys.h"

#include <cstring>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace stepstream {
namespace {

inline uint64_t rotate(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

struct Sip {
    uint64_t a, b, c, d;
    void round() {
        a += b, b = rotate(b, 13) ^ a, a = rotate(a, 32);
        c += d, d = rotate(d, 16) ^ c;
        a += d, d = rotate(d, 21) ^ a;
        c += b, b = rotate(b, 17) ^ c, c = rotate(c, 32);
    }
    void take(uint64_t word) {
        d ^= word;
        round();
        a ^= word;
    }
};

}  // namespace

void* wide_memory(size_t bytes) {
    constexpr size_t PAGE = (size_t)1 << 21;
    const bool wide = bytes >= 2 * PAGE;
    const size_t unit = wide ? PAGE : 64;
    void* p = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    if (p == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    if (wide) madvise(p, bytes, MADV_HUGEPAGE);  // a wish: where it is refused, all works as well
#endif
    return p;
}

KeyTable::Entries::~Entries() {
    for (int64_t i = 0; i < size_; i++) (*this)[i].~Entry();
    for (Entry* block : blocks_) std::free(block);
}

void KeyTable::Entries::add() {
    if (size_ >> BITS == (int64_t)blocks_.size()) {
        blocks_.reserve(blocks_.size() + 1);
        blocks_.push_back((Entry*)wide_memory(sizeof(Entry) << BITS));
    }
    new (&(*this)[size_]) Entry();
    size_++;
}

KeyTable::KeyTable(uint64_t seed0, uint64_t seed1) : seed0_(seed0), seed1_(seed1), mask_(15), slots_(16) {}

uint64_t KeyTable::hash(const Key& key) const {
    Sip s = {seed0_ ^ 0x736f6d6570736575, seed1_ ^ 0x646f72616e646f6d, seed0_ ^ 0x6c7967656e657261,
             seed1_ ^ 0x7465646279746573};
    s.take((uint64_t)key.kind);
    const char* p = key.data.data();
    size_t left = key.data.size();
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        s.take(word);
    }
    uint64_t last = (uint64_t)key.data.size() << 56;
    for (size_t i = 0; i < left; i++) last |= (uint64_t)(uint8_t)p[i] << (8 * i);
    s.take(last);
    s.c ^= 0xff;
    for (int i = 0; i < 3; i++) s.round();
    return s.a ^ s.b ^ s.c ^ s.d;
}

uint64_t KeyTable::slot_of(const Key& key, uint64_t hash) const {
    const uint32_t tag = (uint32_t)(hash >> 32);
    for (uint64_t i = hash & mask_;; i = (i + 1) & mask_) {
        const Slot& slot = slots_[i];
        if (slot.row < 0) return i;
        if (slot.tag != tag) continue;
        const Entry& entry = entries_[slot.row];
        if (entry.kind() == key.kind && entry.data == key.data) return i;
    }
}

void KeyTable::prefetch_entry(uint64_t hash) const {
    const Slot& slot = slots_[hash & mask_];
    if (slot.row < 0) return;
    const Entry* entry = &entries_[slot.row];
    __builtin_prefetch(entry);
    __builtin_prefetch((const char*)(entry + 1) - 1);  // it may lie across two lines
}

int64_t KeyTable::find(const Key& key, uint64_t hash) const { return slots_[slot_of(key, hash)].row; }

int64_t KeyTable::insert(const Key& key, uint64_t hash) {
    uint64_t at = slot_of(key, hash);
    if (slots_[at].row >= 0) return slots_[at].row;
    if ((uint64_t)(size_ + 1) * 10 > (mask_ + 1) * 7) {
        grow();
        at = slot_of(key, hash);
    }
    if (free_.empty()) {
        if (entries_.size() >= INT32_MAX) throw std::length_error("too many keys");
        free_.reserve(free_.size() + 1);
        entries_.add();
        free_.push_back((int32_t)entries_.size() - 1);
    }
    const int32_t row = free_.back();
    Entry& entry = entries_[row];
    entry.data.assign(key.data);  // may throw: nothing has changed yet
    entry.set(key.kind, hash);
    free_.pop_back();
    slots_[at] = {(uint32_t)(hash >> 32), row};
    size_++;
    return row;
}

int64_t KeyTable::remove(const Key& key, uint64_t hash) {
    uint64_t hole = slot_of(key, hash);
    const int32_t row = slots_[hole].row;
    if (row < 0) return -1;
    free_.push_back(row);
    entries_[row] = Entry();
    size_--;
    // what comes behind moves up, unless it would then lie in front of where its search begins
    for (uint64_t i = (hole + 1) & mask_; slots_[i].row >= 0; i = (i + 1) & mask_) {
        const uint64_t home = entries_[slots_[i].row].mixed & mask_;
        if (((i - home) & mask_) >= ((i - hole) & mask_)) {
            slots_[hole] = slots_[i];
            hole = i;
        }
    }
    slots_[hole] = {};
    return row;
}

void KeyTable::grow() {
    std::vector<Slot, Wide<Slot>> old((mask_ + 1) * 2);
    old.swap(slots_);
    mask_ = slots_.size() - 1;
    for (const Slot& slot : old) {
        if (slot.row < 0) continue;
        uint64_t i = entries_[slot.row].mixed & mask_;
        while (slots_[i].row >= 0) i = (i + 1) & mask_;
        slots_[i] = slot;
    }
}

}  // namespace stepstream
