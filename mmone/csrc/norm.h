/* BatchNorms of a convolution's output y and, where there is a skip branch, of its input x, for one type
 * REAL; their sum and the ReLU after it in one pass.
 *
 * y and x are (rows, channels) in memory. Without a skip branch x is NULL. Means, scales and the like
 * are those of y, then those of x. */

/* How many rows are worked on at a time: what caches hold, and not too many terms for one sum. */
static ptrdiff_t NAME(chunk_rows)(ptrdiff_t channels)
{
    ptrdiff_t rows = (1 << 16) / (channels * sizeof(REAL));
    return rows < 8 ? 8 : rows > 256 ? 256 : rows;
}

/* The mean and sum of squared differences from it, in doubles, of a chunk and of `count` rows before it. */
CLONES static void NAME(add_moments)(const REAL *restrict x, ptrdiff_t rows, ptrdiff_t channels, ptrdiff_t count,
                                     REAL *restrict own, double *restrict mean, double *restrict squares)
{
    REAL *restrict centre = own, *restrict first = own + channels, *restrict second = own + 2 * channels;
    memset(own, 0, 3 * channels * sizeof(REAL));
    for (ptrdiff_t row = 0; row < rows; row++)
        for (ptrdiff_t c = 0; c < channels; c++) centre[c] += x[row * channels + c];
    for (ptrdiff_t c = 0; c < channels; c++) centre[c] /= rows;
    for (ptrdiff_t row = 0; row < rows; row++)
        for (ptrdiff_t c = 0; c < channels; c++) {
            REAL value = x[row * channels + c] - centre[c];
            first[c] += value;
            second[c] += value * value;
        }
    const double share = (double)rows / (count + rows);
    for (ptrdiff_t c = 0; c < channels; c++) {
        double off = (double)first[c] / rows, change = centre[c] + off - mean[c];
        squares[c] += second[c] - off * first[c] + change * change * count * share;
        mean[c] += change * share;
    }
}

/* Mean and biased variance of every channel. */
static int NAME(moments)(const REAL *x, ptrdiff_t rows, ptrdiff_t channels, REAL *mean, REAL *var)
{
    const ptrdiff_t tasks = MAX_THREADS, chunk = NAME(chunk_rows)(channels);
    double *parts = calloc(2 * tasks * channels, sizeof *parts);
    int failed = !parts;
    if (failed) return failed;
#pragma omp parallel for
    for (ptrdiff_t task = 0; task < tasks; task++) {
        const ptrdiff_t start = rows * task / tasks, end = rows * (task + 1) / tasks;
        double *part = parts + 2 * task * channels;
        REAL *own = malloc(3 * channels * sizeof(REAL));
        if (!own) failed = 1;
        for (ptrdiff_t row = start; own && row < end; row += chunk)
            NAME(add_moments)(x + row * channels, end - row < chunk ? end - row : chunk, channels, row - start, own,
                              part, part + channels);
        free(own);
    }
    /* In this order whatever thread was first: the same numbers each time. */
    for (ptrdiff_t task = 1; task < tasks; task++) {
        const double count = rows * task / tasks, more = rows * (task + 1) / tasks - count;
        const double *part = parts + 2 * task * channels;
        if (more > 0)
            for (ptrdiff_t c = 0; c < channels; c++) {
                double change = part[c] - parts[c];
                parts[c] += change * more / (count + more);
                parts[channels + c] += part[channels + c] + change * change * count * more / (count + more);
            }
    }
    for (ptrdiff_t c = 0; c < channels; c++) {
        mean[c] = parts[c];
        var[c] = parts[channels + c] / rows;
    }
    free(parts);
    return failed;
}

/* One value of what the ReLU sees. */
static inline __attribute__((always_inline)) REAL NAME(normalized)(
    REAL y, REAL x, const REAL *restrict mean, const REAL *restrict scale, const REAL *restrict bias, ptrdiff_t c,
    ptrdiff_t channels, int skip)
{
    REAL value = (y - mean[c]) * scale[c] + bias[c];
    return skip ? value + (x - mean[channels + c]) * scale[channels + c] : value;
}

static inline __attribute__((always_inline)) void NAME(normalize_rows)(
    const REAL *restrict y, const REAL *restrict x, ptrdiff_t rows, ptrdiff_t channels, const REAL *restrict mean,
    const REAL *restrict scale, const REAL *restrict bias, REAL *restrict out, int relu, int skip)
{
    for (ptrdiff_t i = 0; i < rows * channels; i += channels)
#pragma omp simd
        for (ptrdiff_t c = 0; c < channels; c++) {
            REAL value = NAME(normalized)(y[i + c], skip ? x[i + c] : 0, mean, scale, bias, c, channels, skip);
            out[i + c] = relu && value <= 0 ? 0 : value;
        }
}

CLONES static void NAME(normalize_chunk)(const REAL *y, const REAL *x, ptrdiff_t rows, ptrdiff_t channels,
                                         const REAL *mean, const REAL *scale, const REAL *bias, int relu, REAL *out)
{
    if (x) NAME(normalize_rows)(y, x, rows, channels, mean, scale, bias, out, relu, 1);
    else NAME(normalize_rows)(y, x, rows, channels, mean, scale, bias, out, relu, 0);
}

static void NAME(normalize)(const REAL *y, const REAL *x, ptrdiff_t rows, ptrdiff_t channels, const REAL *mean,
                            const REAL *scale, const REAL *bias, int relu, REAL *out)
{
    const ptrdiff_t chunk = NAME(chunk_rows)(channels);
#pragma omp parallel for
    for (ptrdiff_t row = 0; row < rows; row += chunk)
        NAME(normalize_chunk)(y + row * channels, x ? x + row * channels : NULL, rows - row < chunk ? rows - row : chunk,
                              channels, mean, scale, bias, relu, out + row * channels);
}

/* Of the gradient of what the ReLU sees: its sum, and those of its products with centred y and x. */
static inline __attribute__((always_inline)) void NAME(sum_rows)(
    const REAL *restrict grad, const REAL *restrict y, const REAL *restrict x, ptrdiff_t rows, ptrdiff_t channels,
    const REAL *restrict mean, const REAL *restrict scale, const REAL *restrict bias, REAL *restrict sums, int relu,
    int skip)
{
    for (ptrdiff_t i = 0; i < rows * channels; i += channels)
#pragma omp simd
        for (ptrdiff_t c = 0; c < channels; c++) {
            REAL other = skip ? x[i + c] : 0;
            REAL value = NAME(normalized)(y[i + c], other, mean, scale, bias, c, channels, skip);
            REAL own = grad[i + c];
            own = relu && value <= 0 ? 0 : own;
            sums[c] += own;
            sums[channels + c] += own * (y[i + c] - mean[c]);
            if (skip) sums[2 * channels + c] += own * (other - mean[channels + c]);
        }
}

CLONES static void NAME(sum_chunk)(const REAL *grad, const REAL *y, const REAL *x, ptrdiff_t rows, ptrdiff_t channels,
                                   const REAL *mean, const REAL *scale, const REAL *bias, int relu, REAL *own,
                                   double *restrict sums)
{
    memset(own, 0, 3 * channels * sizeof(REAL));
    if (x) NAME(sum_rows)(grad, y, x, rows, channels, mean, scale, bias, own, relu, 1);
    else NAME(sum_rows)(grad, y, x, rows, channels, mean, scale, bias, own, relu, 0);
    for (ptrdiff_t c = 0; c < 3 * channels; c++) sums[c] += own[c];
}

static int NAME(gradient_sums)(const REAL *grad, const REAL *y, const REAL *x, ptrdiff_t rows, ptrdiff_t channels,
                               const REAL *mean, const REAL *scale, const REAL *bias, int relu, REAL *sums)
{
    const ptrdiff_t tasks = MAX_THREADS, chunk = NAME(chunk_rows)(channels);
    double *parts = calloc(3 * tasks * channels, sizeof *parts);
    int failed = !parts;
    if (failed) return failed;
#pragma omp parallel for
    for (ptrdiff_t task = 0; task < tasks; task++) {
        const ptrdiff_t end = rows * (task + 1) / tasks;
        REAL *own = malloc(3 * channels * sizeof(REAL));
        if (!own) failed = 1;
        for (ptrdiff_t row = rows * task / tasks; own && row < end; row += chunk)
            NAME(sum_chunk)(grad + row * channels, y + row * channels, x ? x + row * channels : NULL,
                            end - row < chunk ? end - row : chunk, channels, mean, scale, bias, relu, own,
                            parts + 3 * task * channels);
        free(own);
    }
    for (ptrdiff_t task = 1; task < tasks; task++)
        for (ptrdiff_t c = 0; c < 3 * channels; c++) parts[c] += parts[3 * task * channels + c];
    for (ptrdiff_t c = 0; c < (x ? 3 : 2) * channels; c++) sums[c] = parts[c];
    free(parts);
    return failed;
}

/* The gradient of y, or what comes to x by the skip branch: grad scale + (value - mean) slope + offset. */
static inline __attribute__((always_inline)) void NAME(gradient_rows)(
    const REAL *restrict grad, const REAL *restrict y, const REAL *restrict x, ptrdiff_t rows, ptrdiff_t channels,
    const REAL *restrict mean, const REAL *restrict scale, const REAL *restrict bias, const REAL *restrict slope,
    const REAL *restrict offset, REAL *restrict out, int relu, int skip, int of_x)
{
    const ptrdiff_t at = of_x ? channels : 0;
    for (ptrdiff_t i = 0; i < rows * channels; i += channels)
#pragma omp simd
        for (ptrdiff_t c = 0; c < channels; c++) {
            REAL other = skip ? x[i + c] : 0;
            REAL value = NAME(normalized)(y[i + c], other, mean, scale, bias, c, channels, skip);
            REAL own = grad[i + c];
            own = relu && value <= 0 ? 0 : own;
            REAL found = own * scale[at + c] + ((of_x ? other : y[i + c]) - mean[at + c]) * slope[at + c] + offset[at + c];
            out[i + c] = of_x ? out[i + c] + found : found;
        }
}

CLONES static void NAME(gradient_chunk)(const REAL *grad, const REAL *y, const REAL *x, ptrdiff_t rows,
                                        ptrdiff_t channels, const REAL *mean, const REAL *scale, const REAL *bias,
                                        int relu, const REAL *slope, const REAL *offset, int of_x, REAL *out)
{
    if (of_x)
        NAME(gradient_rows)(grad, y, x, rows, channels, mean, scale, bias, slope, offset, out, relu, 1, 1);
    else if (x)
        NAME(gradient_rows)(grad, y, x, rows, channels, mean, scale, bias, slope, offset, out, relu, 1, 0);
    else
        NAME(gradient_rows)(grad, y, x, rows, channels, mean, scale, bias, slope, offset, out, relu, 0, 0);
}

static void NAME(gradient)(const REAL *grad, const REAL *y, const REAL *x, ptrdiff_t rows, ptrdiff_t channels,
                           const REAL *mean, const REAL *scale, const REAL *bias, int relu, const REAL *slope,
                           const REAL *offset, int of_x, REAL *out)
{
    const ptrdiff_t chunk = NAME(chunk_rows)(channels);
#pragma omp parallel for
    for (ptrdiff_t row = 0; row < rows; row += chunk)
        NAME(gradient_chunk)(grad + row * channels, y + row * channels, x ? x + row * channels : NULL,
                             rows - row < chunk ? rows - row : chunk, channels, mean, scale, bias, relu, slope, offset,
                             of_x, out + row * channels);
}
