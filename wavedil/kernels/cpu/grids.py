"""Images in panels: how convolutions in two dimensions (and long rows of one) are cut into products.

A dilation of r rows makes r grids of rows that never meet: row i of the output sees rows i, i + r, i + 2 r ... only.
Output rows are therefore taken grid by grid. A *run* is some rows of one grid; the input rows that it sees are one
after the other in that grid too, and each is copied once into a *slab*::

    slab[s, q, j, w] = X[first + s r, left + j, q W + w]        zeros outside of the image

Tap (m, n) of output row s is then the panels ``(s + m, q)`` from column ``n * dilation`` on. The panels of all m and q
lie evenly apart, so that a row of the output is a single product with ``kernel_width`` taps of ``kernel_height *
panels`` panels; weights lie as (kernel_width, kernel_height, channels). Where the dilation along a row is wider than
the columns at hand, the slab has a copy of them for each tap instead (``copies``): most of it would be passed over.

A sequence is an image of one row.
"""

from collections import namedtuple

from wavedil.kernels.cpu.jit import inner
from wavedil.kernels.cpu.layout import even, read_rows
from wavedil.kernels.cpu.panels import beyond, panels_of, strided_view, width_of, zero_memory
from wavedil.kernels.cpu.products import left_taps

COLUMNS = 96  # columns that a kernel handles at once, about
PIXELS = 960  # of a task, about
PARTS = 8  # most slabs of a weight gradient: each is as large as the weights

# How an image (height, width) is convolved to one of (rows, columns): top and left are the padding, channels are per
# group, panels hold them; ``chunk`` columns at once, ``run`` rows of a grid, ``copies`` of the columns.
Grid = namedtuple(
    "Grid",
    "height width rows columns inputs outputs panels_in panels_out kernel_height kernel_width "
    "dilation_height dilation_width top left groups chunk run copies",
)


def grid(size_in, size_out, channels, kernel, dilation, corner, groups, dtype):
    """The Grid of (height, width) -> (rows, columns), with (inputs, outputs) channels of each group."""
    if kernel == (1, 1) and size_in == size_out and corner == (0, 0):  # then rows make no difference
        size_in = size_out = 1, size_in[0] * size_in[1]
    columns = size_out[1]
    chunk = -(-columns // -(-columns // COLUMNS))
    run = max(1, min(PIXELS // min(columns, PIXELS), -(-size_out[0] // dilation[0])))
    copies = kernel[1] if dilation[1] > chunk else 1
    panels = (panels_of(n, dtype) for n in channels)
    return Grid(*size_in, *size_out, *channels, *panels, *kernel, *dilation, *corner, groups, chunk, run, copies)


def slab_size(g, width):
    """Elements of the largest slab, its columns rounded up to an even number."""
    columns = g.chunk + 1 + (0 if g.copies > 1 else (g.kernel_width - 1) * g.dilation_width)
    return g.copies * (g.run + g.kernel_height - 1) * g.panels_in * columns * width


def products(g, depthwise):
    """Multiplications of an image; those of a depthwise product take several times as long as others."""
    pixels = g.rows * g.columns * g.kernel_height * g.kernel_width * g.outputs
    return 6 * pixels if depthwise else pixels * g.inputs * g.groups


def tasks(batch, g):
    """(item, first row, last row + 1, first column, last column + 1) of each task; rows count grid by grid."""
    wide = even(g.columns, PIXELS)
    high = even(g.rows, max(1, PIXELS // wide))
    return [
        (b, i, min(i + high, g.rows), j, min(j + wide, g.columns))
        for b in range(batch)
        for i in range(0, g.rows, high)
        for j in range(0, g.columns, wide)
    ]


def parts(all_tasks):
    """(first task, last + 1) of at most PARTS runs of neighbours, cut by their number alone."""
    size = even(len(all_tasks), -(-len(all_tasks) // PARTS))
    return [(i, min(i + size, len(all_tasks))) for i in range(0, len(all_tasks), size)]


@inner
def next_run(place, end, g):
    """(first row, number of rows) of the run at this place of the rows counted grid by grid, before ``end``."""
    full, rest = g.rows // g.dilation_height, g.rows % g.dilation_height
    if place < rest * (full + 1):
        first, t, length = place // (full + 1), place % (full + 1), full + 1
    else:
        place_left = place - rest * (full + 1)
        first, t, length = rest + place_left // full, place_left % full, full
    return first + t * g.dilation_height, min(end - place, length - t, g.run)


@inner
def read_slab(source, row, column, first, left, columns, count, channels, panels, slab, g):
    """Fill a slab: so many rows of columns from (first, left) on, of channels that begin at ``source``.

    ``row`` and ``column`` are the strides of the image, ``slab`` a pointer. The result is a left operand for
    the taps of the run's first row; ``slab_row`` panels lower is the next row's.
    """
    w = width_of(source)
    wide = columns if g.copies > 1 else columns + (g.kernel_width - 1) * g.dilation_width
    size = panels * wide * w  # of a row
    for c in range(g.copies):
        begin = left + c * g.dilation_width
        for s in range(count):
            i = first + s * g.dilation_height
            to = beyond(slab, (c * count + s) * size)
            if 0 <= i < g.height:
                view = strided_view(to, w, wide * w)
                read_rows(beyond(source, i * row), column, begin, g.width, channels, view, wide)
            else:
                zero_memory(to, size)
    tap = count * size if g.copies > 1 else g.dilation_width * w
    return left_taps(strided_view(slab, w, wide * w), g.kernel_height * panels, tap, g.kernel_width)
