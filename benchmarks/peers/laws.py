"""The laws of the benchmark as plain functions, for peers that take such: `f(t, y, p)`."""


def lorenz(t, y, p):
    del t
    return [
        10.0 * (y[1] - y[0]),
        y[0] * (p[0] - y[2]) - y[1],
        y[0] * y[1] - 8.0 / 3.0 * y[2],
    ]


def van_der_pol(t, y, p):
    del t
    return [y[1], p[0] * (1.0 - y[0] * y[0]) * y[1] - y[0]]


def robertson(t, y, p):
    del t
    first, second, third = p[0] * y[0], p[1] * y[1] * y[1], p[2] * y[1] * y[2]
    return [third - first, first - third - second, second]


def hires(t, y, p):
    del t
    exchange = 280.0 * y[5] * y[7]
    return [
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + p[0] * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -exchange + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        exchange - 1.81 * y[6],
        -exchange + 1.81 * y[6],
    ]


LAWS = {"lorenz": lorenz, "van_der_pol": van_der_pol, "robertson": robertson, "hires": hires}
