/* BatchNorms of a convolution's output y and, where there is a skip branch, of its input x, for one type
 * REAL; their sum and the ReLU after it in one pass. See Sum in ext.c. */

/* How many rows are worked on at a time: what caches hold, and not too many terms for one sum. */
static ptrdiff_t NAME(chunk_rows)(ptrdiff_t channels)
{
    ptrdiff_t rows = (1 << 16) / (channels * sizeof(REAL));
    return rows < 8 ? 8 : rows > 256 ? 256 : rows;
}

/* What of a sum `count` rows at most are, from `row` to `end`. */
static Sum NAME(rows_of)(Sum s, ptrdiff_t row, ptrdiff_t end, ptrdiff_t count)
{
    s.y = (const REAL *)s.y + row * s.channels;
    if (s.x) s.x = (const REAL *)s.x + row * s.channels;
    s.rows = end - row < count ? end - row : count;
    return s;
}

/* For every value: `value`, what the ReLU sees, of `own` in y and `other` in x; and what is done with it. */
#define EACH_VALUE(s, skip, ...)                                                                                   \
    const REAL *restrict y = s.y, *restrict x = s.x, *restrict mean = s.mean, *restrict scale = s.scale;           \
    const REAL *restrict bias = s.bias;                                                                            \
    const ptrdiff_t channels = s.channels;                                                                         \
    for (ptrdiff_t i = 0; i < s.rows * channels; i += channels)                                                    \
        _Pragma("omp simd")                                                                                        \
        for (ptrdiff_t c = 0; c < channels; c++) {                                                                 \
            const REAL own = y[i + c] - mean[c], other = skip ? x[i + c] - mean[channels + c] : 0;                 \
            const REAL value = own * scale[c] + bias[c] + (skip ? other * scale[channels + c] : 0);                \
            __VA_ARGS__                                                                                            \
        }

static inline __attribute__((always_inline)) void NAME(normalize_rows)(Sum s, REAL *restrict out, int skip)
{
    EACH_VALUE(s, skip, out[i + c] = s.relu && value <= 0 ? 0 : value;)
}

CLONES static void NAME(normalize_chunk)(Sum s, REAL *out)
{
    if (s.x) NAME(normalize_rows)(s, out, 1);
    else NAME(normalize_rows)(s, out, 0);
}

static void NAME(normalize)(Sum s, REAL *out)
{
    const ptrdiff_t chunk = NAME(chunk_rows)(s.channels);
#pragma omp parallel for
    for (ptrdiff_t row = 0; row < s.rows; row += chunk)
        NAME(normalize_chunk)(NAME(rows_of)(s, row, s.rows, chunk), out + row * s.channels);
}

/* Of the gradient of what the ReLU sees: its sum, and those of its products with centred y and x. */
static inline __attribute__((always_inline)) void NAME(sum_rows)(Sum s, const REAL *restrict grad, REAL *restrict sums,
                                                                 int skip)
{
    EACH_VALUE(s, skip,
        REAL seen = grad[i + c];
        seen = s.relu && value <= 0 ? 0 : seen;
        sums[c] += seen;
        sums[channels + c] += seen * own;
        if (skip) sums[2 * channels + c] += seen * other;)
}

CLONES static void NAME(sum_chunk)(Sum s, const REAL *grad, REAL *restrict room, double *restrict sums)
{
    memset(room, 0, 3 * s.channels * sizeof(REAL));
    if (s.x) NAME(sum_rows)(s, grad, room, 1);
    else NAME(sum_rows)(s, grad, room, 0);
    for (ptrdiff_t c = 0; c < 3 * s.channels; c++) sums[c] += room[c];
}

static int NAME(gradient_sums)(Sum s, const REAL *grad, REAL *sums)
{
    const ptrdiff_t tasks = MAX_THREADS, chunk = NAME(chunk_rows)(s.channels), size = 3 * s.channels;
    double *parts = calloc(tasks * size, sizeof *parts);
    int failed = !parts;
    if (failed) return failed;
#pragma omp parallel for
    for (ptrdiff_t task = 0; task < tasks; task++) {
        const ptrdiff_t end = s.rows * (task + 1) / tasks;
        REAL *room = malloc(size * sizeof(REAL));
        if (!room) failed = 1;
        for (ptrdiff_t row = s.rows * task / tasks; room && row < end; row += chunk)
            NAME(sum_chunk)(NAME(rows_of)(s, row, end, chunk), grad + row * s.channels, room, parts + task * size);
        free(room);
    }
    for (ptrdiff_t task = 1; task < tasks; task++)
        for (ptrdiff_t c = 0; c < size; c++) parts[c] += parts[task * size + c];
    for (ptrdiff_t c = 0; c < (s.x ? 3 : 2) * s.channels; c++) sums[c] = parts[c];
    free(parts);
    return failed;
}

/* The gradient of y, or what comes to x by the skip branch: grad scale + (value - mean) slope + offset. */
static inline __attribute__((always_inline)) void NAME(gradient_rows)(
    Sum s, const REAL *restrict grad, const REAL *restrict slope, const REAL *restrict offset, REAL *restrict out,
    int skip, int of_x)
{
    const ptrdiff_t at = of_x ? s.channels : 0;
    EACH_VALUE(s, skip,
        REAL seen = grad[i + c];
        seen = s.relu && value <= 0 ? 0 : seen;
        const REAL found = seen * scale[at + c] + (of_x ? other : own) * slope[at + c] + offset[at + c];
        out[i + c] = of_x ? out[i + c] + found : found;)
}

CLONES static void NAME(gradient_chunk)(Sum s, const REAL *grad, const REAL *slope, const REAL *offset, int of_x,
                                        REAL *out)
{
    if (of_x) NAME(gradient_rows)(s, grad, slope, offset, out, 1, 1);
    else if (s.x) NAME(gradient_rows)(s, grad, slope, offset, out, 1, 0);
    else NAME(gradient_rows)(s, grad, slope, offset, out, 0, 0);
}

static void NAME(gradient)(Sum s, const REAL *grad, const REAL *slope, const REAL *offset, int of_x, REAL *out)
{
    const ptrdiff_t chunk = NAME(chunk_rows)(s.channels);
#pragma omp parallel for
    for (ptrdiff_t row = 0; row < s.rows; row += chunk)
        NAME(gradient_chunk)(NAME(rows_of)(s, row, s.rows, chunk), grad + row * s.channels, slope, offset, of_x,
                             out + row * s.channels);
}
#undef EACH_VALUE
