"""What the CPU kernels are made of.

host         the width of the machine's vector registers, and the tile that fits them
jit          how every kernel is compiled and cached
emit         vector instructions, written through LLVM
vector       exp, log, tanh and sigmoid of whole vectors; element-wise loops
elementwise  loops of any such function, sums, and masks of dropout
panels       the one layout of every matrix inside a kernel
storage      weights of a stream in fewer bytes
products     the register tile: matrix products with their beginnings and ends fused
pool         plain Python threads, and task graphs on them
workspace    arrays that are allocated once
"""
