"""What the kernels of `cpu` are told: a table of the layers, and named tuples of where everything lies.

Sizes are in panels, places in elements of the array that holds the thing.
"""

from collections import namedtuple

import numpy as np

CHUNK = 192  # time rows; a multiple of every tile's rows. 96 was slower: by 3% at 32 channels, by 25% at 128

BLOCK, PROJECT, FILTER = 0, 1, 2  # kinds of layers
# One row for each layer. Weights lie in `Net.matrices`, biases in `Net.vectors`, but for those of the blocks'
# convolutions, which a global condition changes for each item: they lie in `Item.bias`. Gradients lie in a slab.
LAYER = np.dtype([(name, np.int64) for name in (
    "kind",
    "taps", "dilation",
    "inputs",            # panels of X, what the layer reads
    "outputs",           # panels of what a projection or a filter writes
    "gate", "wide",      # panels of a block's z, and of its convolution
    "skip",              # panels of the skip sum
    "kept",              # panels of what is kept besides X
    "local",             # panels of a condition at every row; 0 if there is none
    "following",         # the next layer that reads h; -1 if what a block passes on reaches nothing
    "first",             # whether the skip sum begins here
    "adds_z",            # whether z itself is added to the skip sum
    "activation",        # which of `Net.activation`
    "weight", "weight_t", "condition_weight", "condition_t", "residual", "skip_weight", "back",
    "block_bias", "bias", "residual_bias", "skip_bias",
    "frames",            # panels of projected frames of all blocks before
    "d_weight", "d_condition", "d_mix", "d_bias",
    "d_sums",            # the column sums of the gradient of X: of the bias below
    "d_level",           # the column sums of the gradient of the skip sum that the layer reads or adds to
)])  # fmt: skip

# `carried` is the number of panels of h where it is widest. `activation`, `joins` and `head` are values whose types
# pick functions. `table_rows` is the number of rows of the embedding.
Net = namedtuple("Net", "layers activation joins head carried matrices vectors embedding table_rows zero")
# Gradients of one item in one array. `needs` has a number for each layer, and one for the head: the sum of what is to
# be computed there, named below.
Grads = namedtuple("Grads", "slab needs embedding")
RESIDUAL, SKIP, WEIGHT, CONDITION_WEIGHT, CONDITION, INPUT, EMBEDDING = 1, 2, 4, 8, 16, 32, 64  # of a layer
HEAD0, HEAD1, SKIP_SUM = 1, 2, 4  # of the head
# Activations of one item. `layout` holds for each layer where its input X and what it keeps begin and how far their
# panels lie apart. Rows are times where `position` is negative; a buffer that slides along has its present row there.
# `scratch` is of one chunk: z, dz, skip, end, outputs and dend are where its matrices begin. In generation an item is a
# group of streams, whose X and biases lie `stream_step` and `bias_step` elements apart.
Item = namedtuple(
    "Item",
    "x gates layout position stream_step mix condition dcondition rows mix_rows bias bias_step frames dframes "
    "scratch z dz skip end outputs dend",
)
# A condition at frame rate after each block's product with it, its bias included: panels of `rows` rows (frames). The
# first row of the item is row number `phase` of the first frame. Streams lie `step` elements apart. Gradients that
# nobody needs have hop 0.
Frames = namedtuple("Frames", "values rows step hop linear phase")
NoFrames = namedtuple("NoFrames", "")  # then nothing of it is compiled
X, GATES = 0, 1  # rows of `layout` (each with BEGIN and STEP) and of `position`
BEGIN, STEP = 0, 1
