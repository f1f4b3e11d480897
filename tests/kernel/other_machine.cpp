// Runs a plan on another machine: reads what tests/kernel/test_other_machine.py writes, prints the answers' bits.
#include <cstdio>
#include <vector>

#include "machine.h"

using namespace stepstream;

template <class T>
std::vector<T> next() {
    int64_t n = 0;
    if (std::fread(&n, sizeof n, 1, stdin) != 1) std::exit(3);
    std::vector<T> out(n);
    if (std::fread(out.data(), sizeof(T), n, stdin) != (size_t)n) std::exit(3);
    return out;
}

template <class T>
Span<T> span(const std::vector<T>& v) {
    return {v.data(), (int64_t)v.size()};
}

int main() {
    const auto code = next<int64_t>();
    const auto options = next<float>(), weights = next<float>();
    const auto indices = next<int32_t>();
    const auto state = next<int64_t>(), answers = next<int64_t>();
    const auto initial = next<float>();
    const auto sizes = next<int64_t>();  // features, outputs, scratch, input, mask, tile, streams, samples
    const auto x = next<float>();        // (samples, streams, features)
    const auto mask = next<float>();     // (samples, streams)
    const Machine m({span(code), span(options), span(weights), span(indices), span(state), span(answers), span(initial),
                     sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]});
    const int64_t streams = sizes[6], size = m.state_size();
    std::vector<float> table(streams * size), out(streams * sizes[1]);
    std::vector<float*> rows(streams), outs(streams);
    std::vector<const float*> samples(streams);
    std::vector<uint8_t> finite(streams), valid(streams);
    for (int64_t s = 0; s < streams; s++) {
        rows[s] = table.data() + s * size, outs[s] = out.data() + s * sizes[1];
        m.reset(rows[s]);
    }
    for (int64_t t = 0; t < sizes[7]; t++) {
        for (int64_t s = 0; s < streams; s++) {
            samples[s] = x.data() + (t * streams + s) * sizes[0];
            valid[s] = mask[t * streams + s] != 0;
        }
        m.step({streams, rows.data(), samples.data(), valid.data(), outs.data(), finite.data(), false}, 1);
        std::fwrite(out.data(), sizeof(float), out.size(), stdout);
    }
}
