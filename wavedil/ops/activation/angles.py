"""The sine and cosine of an angle modulo pi, as numbers that the CPU and CUDA share."""

from math import factorial

# pi as a sum, with so few bits in the first parts that their products with whole numbers are exact (Cephes).
PI = {
    32: (3.140625, 9.67502593994140625e-4, 1.509957990978376432e-7),
    64: (3.14159250259399414, 1.50995788317231927e-7, 1.07806056851639181e-14),
}


def sine_and_cosine(bits):
    """Coefficients of (sin(r) / r - 1) / r^2 and of cos(r) in powers of r^2, the highest first, for |r| <= pi / 2."""
    top = 15 if bits == 32 else 23
    sine = [(-1) ** (n // 2) / factorial(n) for n in range(top, 2, -2)]
    cosine = [(-1) ** (n // 2) / factorial(n) for n in range(top - 1, -1, -2)]
    return sine, cosine
