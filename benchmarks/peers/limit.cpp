// The physical limit: ensembles by hand-written vector code, one thread.
//
// Explicit Runge-Kutta and Rosenbrock steps of `LANES` members at a time with integral
// control of the error; a lane whose member is done takes the next one. The numbers of the
// methods come from `tableaux.h`, which benchmarks/peers/limit.py writes from simkit's own,
// so that the steps are the same. Compiled on the spot with -O3 -march=native -ffast-math.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tableaux.h"

#if defined(__AVX512F__)
constexpr int WIDTH = 8;
#elif defined(__AVX2__)
constexpr int WIDTH = 4;
#else
constexpr int WIDTH = 2;
#endif
#ifndef GROUPS
#define GROUPS 1
#endif
constexpr int LANES = WIDTH * GROUPS;

typedef double Vector __attribute__((vector_size(8 * WIDTH)));
typedef int64_t Wholes __attribute__((vector_size(8 * WIDTH)));

#define INLINE inline __attribute__((always_inline))
#define EACH for (int g = 0; g < GROUPS; g++)

// One number of each lane; `GROUPS` vectors, so that one computes while another waits.
struct Reals {
    Vector v[GROUPS];
    INLINE Reals() {}
    INLINE Reals(double x) { EACH v[g] = Vector{} + x; }
};
struct Truths {
    Wholes v[GROUPS];
};

INLINE Reals operator+(Reals a, Reals b) { EACH a.v[g] += b.v[g]; return a; }
INLINE Reals operator-(Reals a, Reals b) { EACH a.v[g] -= b.v[g]; return a; }
INLINE Reals operator*(Reals a, Reals b) { EACH a.v[g] *= b.v[g]; return a; }
INLINE Reals operator/(Reals a, Reals b) { EACH a.v[g] /= b.v[g]; return a; }
INLINE Reals operator-(Reals a) { EACH a.v[g] = -a.v[g]; return a; }
INLINE Truths operator<(Reals a, Reals b) { Truths t; EACH t.v[g] = a.v[g] < b.v[g]; return t; }
INLINE Truths operator>=(Reals a, Reals b) { Truths t; EACH t.v[g] = a.v[g] >= b.v[g]; return t; }
INLINE Truths operator&(Truths a, Truths b) { EACH a.v[g] &= b.v[g]; return a; }
INLINE Reals choose(Truths t, Reals a, Reals b) { EACH a.v[g] = t.v[g] ? a.v[g] : b.v[g]; return a; }
INLINE Reals least(Reals a, Reals b) { return choose(a < b, a, b); }
INLINE Reals most(Reals a, Reals b) { return choose(b < a, a, b); }
INLINE Reals size(Reals a) { return most(a, -a); }
INLINE double *lane(Reals &a) { return reinterpret_cast<double *>(a.v); }

INLINE unsigned bits(Truths t) {
    unsigned found = 0;
    EACH {
#if defined(__AVX512DQ__)
        found |= (unsigned)__builtin_ia32_cvtq2mask512((__v8di)t.v[g]) << (g * WIDTH);
#elif defined(__AVX2__)
        found |= (unsigned)__builtin_ia32_movmskpd256((Vector)t.v[g]) << (g * WIDTH);
#else
        for (int i = 0; i < WIDTH; i++) found |= (unsigned)(t.v[g][i] & 1) << (g * WIDTH + i);
#endif
    }
    return found;
}

// A power with a constant exponent of a normal positive number, to some nine digits.
INLINE Reals power(Reals x, double exponent) {
    Reals result;
    EACH {
        Wholes root = Wholes{} + 0x3fe6a09e667f3bcdLL;
        Wholes moved = (Wholes)x.v[g] - root;
        Wholes high = (Wholes)((uint64_t __attribute__((vector_size(8 * WIDTH))))(moved + (1LL << 62)) >> 52);
        Vector k = (Vector)(high | 0x4330000000000000LL) - (4503599627370496.0 + 1024);
        Vector f = (Vector)((moved & ((1LL << 52) - 1)) + root) - 1.0;
        Vector s = f / (f + 2.0), z = s * s;
        double two = 2.8853900817779268 * exponent;
        Vector z2 = z * z;
        Vector series = (two + z * (two / 3)) + z2 * ((two / 5 + z * (two / 7)) + z2 * (two / 9 + z * (two / 11)));
        Vector l = k * exponent + s * series;
        Vector shifted = l + 6755399441055744.0;
        asm volatile("" : "+x"(shifted));  // fast-math would drop the rounding
        Vector r = l - (shifted - 6755399441055744.0);
        Vector r2 = r * r;
        Vector low = 1.0 + r * 0.6931471805599453, mid = 0.2402265069591007 + r * 0.05550410866482158;
        Vector up = 0.009618129107628477 + r * 0.0013333558146428441, top = 0.00015403530393381606 + r * 1.525273380405984e-05;
        Vector p = (low + r2 * mid) + (r2 * r2) * (up + r2 * top);
        result.v[g] = (Vector)((Wholes)p + ((Wholes)shifted << 52));
    }
    return result;
}

// What stays the same for all members.
struct Call {
    const double *initial;     // members x states
    const double *parameters;  // members x parameters
    const double *times;       // saves
    double *final_state;       // members x states
    double *saved;             // members x saves x states
    int64_t *steps;            // in all
    int64_t members, saves;
    double start, stop, rtol, atol;
};

struct Lorenz {
    static constexpr int states = 3, parameters = 1;
    static INLINE void drift(const Reals *y, const Reals *p, Reals *f) {
        f[0] = Reals(10.0) * (y[1] - y[0]);
        f[1] = y[0] * (p[0] - y[2]) - y[1];
        f[2] = y[0] * y[1] - Reals(8.0 / 3.0) * y[2];
    }
};

struct VanDerPol {
    static constexpr int states = 2, parameters = 1;
    static INLINE void drift(const Reals *y, const Reals *p, Reals *f) {
        f[0] = y[1];
        f[1] = p[0] * (Reals(1.0) - y[0] * y[0]) * y[1] - y[0];
    }
    static INLINE void jacobian(const Reals *y, const Reals *p, Reals (*j)[2]) {
        j[0][0] = 0.0;
        j[0][1] = 1.0;
        j[1][0] = Reals(-2.0) * p[0] * y[0] * y[1] - Reals(1.0);
        j[1][1] = p[0] * (Reals(1.0) - y[0] * y[0]);
    }
};

struct Robertson {
    static constexpr int states = 3, parameters = 3;
    static INLINE void drift(const Reals *y, const Reals *p, Reals *f) {
        Reals a = p[0] * y[0], b = p[1] * y[1] * y[1], c = p[2] * y[1] * y[2];
        f[0] = c - a;
        f[1] = a - c - b;
        f[2] = b;
    }
    static INLINE void jacobian(const Reals *y, const Reals *p, Reals (*j)[3]) {
        Reals b = Reals(2.0) * p[1] * y[1], c1 = p[2] * y[2], c2 = p[2] * y[1];
        j[0][0] = -p[0]; j[0][1] = c1; j[0][2] = c2;
        j[1][0] = p[0]; j[1][1] = -c1 - b; j[1][2] = -c2;
        j[2][0] = 0.0; j[2][1] = b; j[2][2] = 0.0;
    }
};

// A step of an explicit method: slopes, the states after it, and its error.
template <class Law, class Method> struct Explicit {
    static constexpr int n = Law::states;
    Reals k[Method::stages][n];
    INLINE void begin(const Reals *y, const Reals *p) { Law::drift(y, p, k[0]); }
    INLINE void step(Reals h, const Reals *y, const Reals *p, Reals *after, Reals *error) {
        if (!Method::reuses_last) Law::drift(y, p, k[0]);
#pragma GCC unroll 16
        for (int s = 1; s < Method::stages; s++) {
            combine(Method::a[s - 1], s, h, y, after);
            Law::drift(after, p, k[s]);
        }
        if (!Method::last_is_solution) combine(Method::b, Method::stages, h, y, after);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            Reals sum = 0.0;
#pragma GCC unroll 16
            for (int j = 0; j < Method::stages; j++)
                if (Method::e[j] != 0) sum = sum + Reals(Method::e[j]) * k[j][i];
            error[i] = h * sum;
        }
    }
    static INLINE void weigh(const double *a, int count, const Reals (*k)[n], int i, Reals &sum) {
#pragma GCC unroll 16
        for (int j = 0; j < count; j++)
            if (a[j] != 0) sum = sum + Reals(a[j]) * k[j][i];
    }
    INLINE void combine(const double *a, int count, Reals h, const Reals *y, Reals *after) {
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            Reals sum = 0.0;
            weigh(a, count, k, i, sum);
            after[i] = y[i] + h * sum;
        }
    }
    INLINE void accept(Truths keep) {
        if (Method::reuses_last)
            for (int i = 0; i < n; i++) k[0][i] = choose(keep, k[Method::stages - 1][i], k[0][i]);
    }
    INLINE void between(Reals fraction, Reals h, const Reals *y, const Reals *, Reals *out) {
        Reals sum[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) sum[i] = 0.0;
#pragma GCC unroll 16
        for (int j = 0; j < Method::stages; j++) {
            Reals w = Method::dense[j][Method::degree];
#pragma GCC unroll 16
            for (int d = Method::degree - 1; d >= 0; d--) w = w * fraction + Reals(Method::dense[j][d]);
#pragma GCC unroll 16
            for (int i = 0; i < n; i++) sum[i] = sum[i] + w * k[j][i];
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) out[i] = y[i] + h * sum[i];
    }
};

// A step of a Rosenbrock method for a law that knows no time; no pivots.
template <class Law, class Method> struct Rosenbrock {
    static constexpr int n = Law::states;
    Reals u[Method::stages][n];
    INLINE void begin(const Reals *, const Reals *) {}
    INLINE void step(Reals h, const Reals *y, const Reals *p, Reals *after, Reals *error) {
        Reals m[n][n], pivots[n], inverse = Reals(1.0) / h;
        Law::jacobian(y, p, m);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++)
#pragma GCC unroll 16
            for (int j = 0; j < n; j++)
                m[i][j] = i == j ? inverse * Reals(1 / Method::gamma) - m[i][j] : -m[i][j];
#pragma GCC unroll 16
        for (int c = 0; c < n; c++) {
            pivots[c] = Reals(1.0) / m[c][c];
#pragma GCC unroll 16
            for (int i = c + 1; i < n; i++) {
                m[i][c] = m[i][c] * pivots[c];
#pragma GCC unroll 16
                for (int j = c + 1; j < n; j++) m[i][j] = m[i][j] - m[i][c] * m[c][j];
            }
        }
#pragma GCC unroll 16
        for (int s = 0; s < Method::stages; s++) {
            Reals at[n], right[n];
            plus(Method::a[s], s, y, at);
            Law::drift(at, p, right);
#pragma GCC unroll 16
            for (int i = 0; i < n; i++) {
                Reals sum = 0.0;
#pragma GCC unroll 16
                for (int j = 0; j < s; j++)
                    if (Method::c[s][j] != 0) sum = sum + Reals(Method::c[s][j]) * u[j][i];
                right[i] = right[i] + inverse * sum;
            }
#pragma GCC unroll 16
            for (int i = 1; i < n; i++)
#pragma GCC unroll 16
                for (int j = 0; j < i; j++) right[i] = right[i] - m[i][j] * right[j];
#pragma GCC unroll 16
            for (int i = n - 1; i >= 0; i--) {
#pragma GCC unroll 16
                for (int j = i + 1; j < n; j++) right[i] = right[i] - m[i][j] * u[s][j];
                u[s][i] = right[i] * pivots[i];
            }
        }
        plus(Method::b, Method::stages, y, after);
        for (int i = 0; i < n; i++) error[i] = u[Method::stages - 1][i];
    }
    INLINE void plus(const double *a, int count, const Reals *y, Reals *out) {
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            Reals sum = y[i];
#pragma GCC unroll 16
            for (int j = 0; j < count; j++)
                if (a[j] != 0) sum = sum + Reals(a[j]) * u[j][i];
            out[i] = sum;
        }
    }
    INLINE void accept(Truths) {}
    INLINE void between(Reals x, Reals, const Reals *y, const Reals *after, Reals *out) {
        Reals rest = Reals(1.0) - x;
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            Reals p[3];
            for (int r = 0; r < 3; r++) {
                p[r] = 0.0;
#pragma GCC unroll 16
                for (int j = 0; j < Method::stages; j++)
                    if (Method::dense[r][j] != 0) p[r] = p[r] + Reals(Method::dense[r][j]) * u[j][i];
            }
            out[i] = rest * y[i] + x * (after[i] + rest * (p[0] + x * (p[1] + x * p[2])));
        }
    }
};

template <class Law, class Method, template <class, class> class Kind> static void solve(const Call &call) {
    constexpr int n = Law::states, m = Law::parameters;
    Kind<Law, Method> method;
    Reals y[n], p[m], t = call.stop, h = 0.0, save = INFINITY;
    int64_t member[LANES], saved[LANES], next = 0, steps = 0;
    bool active[LANES] = {};
    const Reals stop = call.stop, rtol = call.rtol, atol = call.atol;
    for (int i = 0; i < n; i++) y[i] = 1.0;
    for (int i = 0; i < m; i++) p[i] = 1.0;
    unsigned done = (1u << LANES) - 1;
    unsigned running = done;
    for (;;) {
        if (__builtin_expect(done & running, 0)) {
            for (int l = 0; l < LANES; l++) {
                if (!((done & running) >> l & 1)) continue;
                if (active[l]) {
                    for (int i = 0; i < n; i++) call.final_state[member[l] * n + i] = lane(y[i])[l];
                }
                active[l] = next < call.members;
                if (!active[l]) {
                    running &= ~(1u << l);
                    lane(h)[l] = 0.0;
                    continue;
                }
                member[l] = next++;
                saved[l] = 0;
                for (int i = 0; i < n; i++) lane(y[i])[l] = call.initial[member[l] * n + i];
                for (int i = 0; i < m; i++) lane(p[i])[l] = call.parameters[member[l] * m + i];
                lane(t)[l] = call.start;
                lane(h)[l] = 0.01;
                lane(save)[l] = call.saves ? call.times[0] : 1e300;
            }
            if (!running) break;
            method.begin(y, p);
        }
        Reals after[n], error[n];
        method.step(h, y, p, after, error);
        Reals square = 0.0;
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            Reals ratio = error[i] / (atol + rtol * most(size(y[i]), size(after[i])));
            square = square + ratio * ratio;
        }
        square = square * Reals(1.0 / n);
        Truths keep = square < Reals(1.0);
        square = most(least(square, 1e60), 1e-60);
        Reals factor = Reals(0.9) * power(square, -0.5 / Method::order);
        factor = least(most(factor, choose(keep, 1.0, 0.2)), choose(keep, 10.0, 0.9));
        Reals begin = t, end = t + h;
        t = choose(keep, end, t);
        if (call.saves) {
            for (unsigned due; (due = bits((end >= save) & keep) & running);) {
                Reals out[n];
                method.between((save - begin) / h, h, y, after, out);
                for (; due; due &= due - 1) {
                    int l = __builtin_ctz(due);
                    double *row = call.saved + (member[l] * call.saves + saved[l]) * n;
                    for (int i = 0; i < n; i++) row[i] = lane(out[i])[l];
                    saved[l]++;
                    lane(save)[l] = saved[l] < call.saves ? call.times[saved[l]] : 1e300;
                }
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) y[i] = choose(keep, after[i], y[i]);
        method.accept(keep);
        Reals proposed = h * factor, left = stop - t;
        // A step that would end just before the end, or beyond it, ends there.
        h = choose(proposed >= left * Reals(1 - 1e-14), choose(keep, left, left * Reals(0.5)), proposed);
        steps += LANES;
        done = bits(t >= stop);
    }
    *call.steps = steps;
}

#define SOLVER(name, law, method, kind) \
    extern "C" void name(const Call *call) { solve<law, method, kind>(*call); }
SOLVER(lorenz_tsit5, Lorenz, Tsit5, Explicit)
SOLVER(van_der_pol_rodas5p, VanDerPol, Rodas5P, Rosenbrock)
SOLVER(robertson_rodas5p, Robertson, Rodas5P, Rosenbrock)
