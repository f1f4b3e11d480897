// Activations on vectors. Coefficients: minimax fits, made for this file; errors against float64 over the whole range
// are below 5e-7, absolute or relative. NaN stays NaN, but in log_.
#pragma once

#include "vec.h"

namespace {

// x P(x^2) / Q(x^2), 2.1e-8 from tanh. At the limit, where tanh is 1.2e-7 below it, the result is exactly 1; it is not
// above for any float, all of which were tried.
inline V tanh_(V x) {
    constexpr float LIMIT = 8.30105877f;
    x = at_least(at_most(x, all(LIMIT)), all(-LIMIT));
    const V u = x * x;
    V p = all(1.3319125358179917e-08f), q = all(7.762042741887853e-07f);
    p = fma(p, u, all(2.05835240194574e-05f));
    q = fma(q, u, all(0.0003283097466919571f));
    p = fma(p, u, all(0.003494037315249443f));
    q = fma(q, u, all(0.02587108500301838f));
    p = fma(p, u, all(0.13379719853401184f));
    q = fma(q, u, all(0.4671303629875183f));
    p = fma(p, u, all(1.0f));
    q = fma(q, u, all(1.0f));
    return x * p / q;
}

// sigmoid of twice x, from tanh(x)
inline V sigmoid_of_tanh(V t) { return fma(all(0.5f), t, all(0.5f)); }

inline V sigmoid_(V x) { return sigmoid_of_tanh(tanh_(x * 0.5f)); }

// 2^n (1 + r + ...), |r| <= ln(2) / 2; overflows to infinity and goes through the subnormal numbers to 0
inline V exp_(V x) {
    const V magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number, in the lowest bits
    const V c = at_least(at_most(x, all(89.0f)), all(-105.0f));
    const V shifted = fma(c, all(1.4426950408889634f), magic);
    const V n = shifted - magic;
    V r = fma(n, all(-0.693145751953125f), c);
    r = fma(n, all(-1.428606820309417e-06f), r);
    V p = all(0.0013814602280035615f);
    p = fma(p, r, all(0.008368715643882751f));
    p = fma(p, r, all(0.04166838899254799f));
    p = fma(p, r, all(0.1666652113199234f));
    p = fma(p, r, all(0.4999999403953552f));
    p = fma(p, r, all(1.0f));
    p = fma(p, r, all(1.0f));
    const I whole = (I)shifted - (I)magic, half = whole >> 1;  // in two steps: 2^128 is no float
    return p * (V)((half + 127) << 23) * (V)((whole - half + 127) << 23);
}

// for x <= 0
inline V expm1_(V x) {
    const V t = tanh_(x * 0.5f);
    return 2.0f * t / (1.0f - t);
}

// ln(1 + x) for 0 <= x <= 1: twice the area hyperbolic tangent of x / (2 + x)
inline V log1p_(V x) {
    const V s = x / (x + 2.0f), u = s * s;
    V p = all(0.13454332947731018f);
    p = fma(p, u, all(0.1411420702934265f));
    p = fma(p, u, all(0.20003923773765564f));
    p = fma(p, u, all(0.33333319425582886f));
    return 2.0f * fma(s * u, p, s);
}

// for normal x > 0
inline V log_(V x) {
    const I e = ((I)x - 0x3f3504f3) >> 23;  // so that the rest lies in [sqrt(1/2), sqrt(2)]
    const V m = (V)((I)x - (e << 23)) - 1.0f, s = m / (m + 2.0f), u = s * s;
    V p = all(0.14793099462985992f);
    p = fma(p, u, all(0.1999431848526001f));
    p = fma(p, u, all(0.33333343267440796f));
    const V f = 2.0f * fma(s * u, p, s);
    const V n = __builtin_convertvector(e, V);
    return fma(n, all(0.693145751953125f), fma(n, all(1.428606820309417e-06f), f));
}

inline V softplus_(V x) { return at_least(x, all(0.0f)) + log1p_(exp_(-magnitude(x))); }

inline V erf_(V x) {
    const V a = magnitude(x), u = at_most(x * x, all(1.0f)), t = at_most(a, all(4.0f));
    V p = all(-0.000586214882787317f);
    p = fma(p, u, all(0.004967523738741875f));
    p = fma(p, u, all(-0.02674887888133526f));
    p = fma(p, u, all(0.11281321197748184f));
    p = fma(p, u, all(-0.37612447142601013f));
    p = fma(p, u, all(1.1283791065216064f));
    V q = all(-2.0909481463604607e-05f);
    q = fma(q, t, all(0.0004323021857999265f));
    q = fma(q, t, all(-0.004160523414611816f));
    q = fma(q, t, all(0.025091487914323807f));
    q = fma(q, t, all(-0.10823660343885422f));
    q = fma(q, t, all(-0.6333866715431213f));
    q = fma(q, t, all(-1.1294951438903809f));
    q = fma(q, t, all(0.00017055102216545492f));
    return a < 0.92f ? x * p : signed_as(1.0f - exp_(q), x);
}

}  // namespace
