"""What the CUDA kernels are made of, each module from those above it.

launch       kernels and their launch, sizes of blocks and tiles
numbers      float16, float32 and float64 values, four at once
elementwise  add, scale and pull in place
array        arrays on a device
engine       the driver, the simulator or a test's own: what all work on a device goes through
sums         sums over rows, slab by slab
tiles        the register tile, and what moves rows into shared memory
products     the two matrix products that all ops are made of
rows         rows that are copied, and the past of a stream
"""
