/* The sum of BatchNorms, with the ReLU after it, and its gradient, for one type REAL: ext.c includes this file
 * for float and for double. reference.py computes the same by plain loops.
 *
 * y is the output of a 1×1 convolution, x its input where there is a skip branch; both are (rows, channels), a row
 * for each position of each image. NormSum in ext.c has the mean and the scale γ / √(var + ε) of each:
 *
 *     value = (y - mean_y) scale_y + (x - mean_x) scale_x + bias,    output = max(value, 0) if there is a ReLU.
 *
 * Backward, g is the gradient of value: that of the output where the ReLU lets it through, else 0. `value` is
 * computed again, which costs less than to store and read it. */

/* How many rows are worked on at a time: few enough for the cache, and for sums of REALs not to round much. */
static ptrdiff_t NAME(chunk_rows)(ptrdiff_t channels)
{
    ptrdiff_t rows = (1 << 16) / (channels * sizeof(REAL));
    return rows < 8 ? 8 : rows > 256 ? 256 : rows;
}

/* The rows from `row` on: `count` of them, or fewer up to `end`. */
static NormSum NAME(slice_rows)(NormSum s, ptrdiff_t row, ptrdiff_t end, ptrdiff_t count)
{
    s.y = (const REAL *)s.y + row * s.channels;
    if (s.x) s.x = (const REAL *)s.x + row * s.channels;
    s.rows = end - row < count ? end - row : count;
    return s;
}

/* Runs the statements for every value, with i + c its index, c its channel, and `centred_y`, `centred_x` and
 * `value` of the formula above. `skip` is a constant. */
#define EACH_VALUE(s, skip, ...)                                                                                   \
    const REAL *restrict y = s.y, *restrict x = s.x, *restrict mean = s.mean, *restrict scale = s.scale;           \
    const REAL *restrict bias = s.bias;                                                                            \
    const ptrdiff_t channels = s.channels;                                                                         \
    for (ptrdiff_t i = 0; i < s.rows * channels; i += channels)                                                    \
        _Pragma("omp simd")                                                                                        \
        for (ptrdiff_t c = 0; c < channels; c++) {                                                                 \
            const REAL centred_y = y[i + c] - mean[c], centred_x = skip ? x[i + c] - mean[channels + c] : 0;       \
            const REAL value = centred_y * scale[c] + bias[c] + (skip ? centred_x * scale[channels + c] : 0);      \
            __VA_ARGS__                                                                                            \
        }

static inline __attribute__((always_inline)) void NAME(normalize_rows)(NormSum s, REAL *restrict out, int skip)
{
    EACH_VALUE(s, skip, out[i + c] = s.relu && value <= 0 ? 0 : value;)
}

CLONES static void NAME(normalize_chunk)(NormSum s, REAL *out)
{
    if (s.x) NAME(normalize_rows)(s, out, 1);
    else NAME(normalize_rows)(s, out, 0);
}

static void NAME(norm_sum)(NormSum s, REAL *out)
{
    const ptrdiff_t chunk = NAME(chunk_rows)(s.channels);
#pragma omp parallel for
    for (ptrdiff_t row = 0; row < s.rows; row += chunk)
        NAME(normalize_chunk)(NAME(slice_rows)(s, row, s.rows, chunk), out + row * s.channels);
}

/* Adds Σ g, Σ g centred_y and Σ g centred_x of each channel. */
static inline __attribute__((always_inline)) void NAME(sum_rows)(NormSum s, const REAL *restrict grad,
                                                                 REAL *restrict sums, int skip)
{
    EACH_VALUE(s, skip,
        REAL g = grad[i + c];
        g = s.relu && value <= 0 ? 0 : g;
        sums[c] += g;
        sums[channels + c] += g * centred_y;
        if (skip) sums[2 * channels + c] += g * centred_x;)
}

/* `room` is for the sums of these rows, which are then added to those in double. */
CLONES static void NAME(sum_chunk)(NormSum s, const REAL *grad, REAL *restrict room, double *restrict sums)
{
    memset(room, 0, 3 * s.channels * sizeof(REAL));
    if (s.x) NAME(sum_rows)(s, grad, room, 1);
    else NAME(sum_rows)(s, grad, room, 0);
    for (ptrdiff_t c = 0; c < 3 * s.channels; c++) sums[c] += room[c];
}

/* Returns whether memory ran out. */
static int NAME(norm_gradient_sums)(NormSum s, const REAL *grad, REAL *sums)
{
    const ptrdiff_t tasks = MAX_THREADS, chunk = NAME(chunk_rows)(s.channels), size = 3 * s.channels;
    double *parts = calloc(tasks * size, sizeof *parts);
    int failed = !parts;
    if (failed) return failed;
#pragma omp parallel for reduction(| : failed)
    for (ptrdiff_t task = 0; task < tasks; task++) {
        const ptrdiff_t end = s.rows * (task + 1) / tasks;
        REAL *room = malloc(size * sizeof(REAL));
        if (!room) failed = 1;
        for (ptrdiff_t row = s.rows * task / tasks; room && row < end; row += chunk)
            NAME(sum_chunk)(NAME(slice_rows)(s, row, end, chunk), grad + row * s.channels, room, parts + task * size);
        free(room);
    }
    for (ptrdiff_t task = 1; task < tasks; task++)
        for (ptrdiff_t c = 0; c < size; c++) parts[c] += parts[task * size + c];
    for (ptrdiff_t c = 0; c < (s.x ? 3 : 2) * s.channels; c++) sums[c] = parts[c];
    free(parts);
    return failed;
}

/* g scale + centred slope + offset, with scale, centred values, slope and offset of y, as the gradient of y; or, if
 * `for_x`, of x, added to what x has from the convolution. The slope and the offset hold what comes through the
 * variance and the mean. */
static inline __attribute__((always_inline)) void NAME(gradient_rows)(
    NormSum s, const REAL *restrict grad, const REAL *restrict slope, const REAL *restrict offset, REAL *restrict out,
    int skip, int for_x)
{
    const ptrdiff_t at = for_x ? s.channels : 0;
    EACH_VALUE(s, skip,
        REAL g = grad[i + c];
        g = s.relu && value <= 0 ? 0 : g;
        const REAL found = g * scale[at + c] + (for_x ? centred_x : centred_y) * slope[at + c] + offset[at + c];
        out[i + c] = for_x ? out[i + c] + found : found;)
}

CLONES static void NAME(gradient_chunk)(NormSum s, const REAL *grad, const REAL *slope, const REAL *offset, int for_x,
                                        REAL *out)
{
    if (for_x) NAME(gradient_rows)(s, grad, slope, offset, out, 1, 1);
    else if (s.x) NAME(gradient_rows)(s, grad, slope, offset, out, 1, 0);
    else NAME(gradient_rows)(s, grad, slope, offset, out, 0, 0);
}

static void NAME(norm_gradient)(NormSum s, const REAL *grad, const REAL *slope, const REAL *offset, int for_x,
                                REAL *out)
{
    const ptrdiff_t chunk = NAME(chunk_rows)(s.channels);
#pragma omp parallel for
    for (ptrdiff_t row = 0; row < s.rows; row += chunk)
        NAME(gradient_chunk)(NAME(slice_rows)(s, row, s.rows, chunk), grad + row * s.channels, slope, offset, for_x,
                             out + row * s.channels);
}
#undef EACH_VALUE
