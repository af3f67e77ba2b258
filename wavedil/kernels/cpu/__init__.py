"""What the CPU kernels are made of.

host         the width of the machine's vector registers, and the tile that fits them
jit          how every kernel is compiled and cached
emit         vector instructions, written through LLVM
vector       exp, log, tanh and sigmoid of whole vectors; element-wise loops
elementwise  loops of any such function, sums, and masks of dropout
panels       the one layout of every matrix inside a kernel
layout       arrays of rows from and to panels
products     the register tile: matrix products with their beginnings and ends fused
rows         single rows: a look-up, softmax and cross-entropy, a draw
grids        convolutions over images as products
random       random numbers as a function of where they are used
"""
