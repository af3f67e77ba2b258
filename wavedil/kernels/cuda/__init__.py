"""What the CUDA kernels are made of.

device    arrays on a device, launching kernels, the engine that does both
storage   float16 and float32 values as floats
products  the tiles in shared memory: matrix products, and sums of slabs
rows      element-wise kernels, sums of rows, and single rows
"""
