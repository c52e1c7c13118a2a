/* The functions of depthwise.c for one type REAL; see there. */

/* A vector of channels. The compiler splits it into what the machine has. */
typedef REAL NAME(Vector) __attribute__((vector_size(LANES * sizeof(REAL))));
#define VECTOR NAME(Vector)

static inline __attribute__((always_inline)) VECTOR NAME(load)(const REAL *at, int lanes)
{
    VECTOR value = {0};
    if (lanes == LANES) memcpy(&value, at, sizeof value);
    else memcpy(&value, at, lanes * sizeof(REAL));
    return value;
}

/* Three rows of `lanes` channels as the taps see them, less the shift, with the padding beside them. */
static inline __attribute__((always_inline)) void NAME(fill)(
    VECTOR *restrict rows, const REAL *restrict x, VECTOR shift, Shape s, ptrdiff_t h, int lanes)
{
    const ptrdiff_t width = s.width + 2 * s.dilation;
    for (int tap = 0; tap < 3; tap++, rows += width) {
        ptrdiff_t row = h + (tap - 1) * s.dilation;
        for (ptrdiff_t w = 0; w < width; w++) rows[w] = -shift;
        if (row < 0 || row >= s.height) continue;
        for (ptrdiff_t w = 0; w < s.width; w++)
            rows[w + s.dilation] = NAME(load)(x + (row * s.width + w) * s.channels, lanes) - shift;
    }
}

/* Products of the taps of row `a` with those of row `b`, all of them or where they differ. */
static inline __attribute__((always_inline)) void NAME(multiply)(
    VECTOR *restrict total, const VECTOR *restrict a, const VECTOR *restrict b, Shape s, int same)
{
    VECTOR sum[9] = {0};
    for (ptrdiff_t column = 0; column < s.out_width; column++) {
        const VECTOR *at = a + column * s.stride, *bt = b + column * s.stride;
        VECTOR a0 = at[0], a1 = at[s.dilation], a2 = at[2 * s.dilation];
        VECTOR b0 = bt[0], b1 = bt[s.dilation], b2 = bt[2 * s.dilation];
        sum[0] += a0 * b0, sum[1] += a0 * b1, sum[2] += a0 * b2;
        sum[4] += a1 * b1, sum[5] += a1 * b2, sum[8] += a2 * b2;
        if (same) sum[3] += a0, sum[6] += a1, sum[7] += a2;
        else sum[3] += a1 * b0, sum[6] += a2 * b0, sum[7] += a2 * b1;
    }
    for (int i = 0; i < 9; i++) total[i] += sum[i];
}

/* Sums over images `first` to `last` of the channels from `x` on: for each two rows of taps, 9. */
CLONES static void NAME(sum_lanes)(const REAL *restrict x, const REAL *restrict shift, double *restrict sums,
                                   VECTOR *restrict rows, Shape s, ptrdiff_t first, ptrdiff_t last, int lanes)
{
    const ptrdiff_t width = s.width + 2 * s.dilation, image = s.height * s.width * s.channels;
    const VECTOR centre = NAME(load)(shift, lanes);
    VECTOR total[SUMS] = {0};
    ptrdiff_t pending = 0;
    for (ptrdiff_t n = first; n < last; n++)
        for (ptrdiff_t row = 0; row < s.out_height; row++) {
            NAME(fill)(rows, x + n * image, centre, s, row * s.stride, lanes);
            for (int a = 0, pair = 0; a < 3; a++)
                for (int b = a; b < 3; b++, pair++) {
                    if (a == b) NAME(multiply)(total + 9 * pair, rows + a * width, rows + b * width, s, 1);
                    else NAME(multiply)(total + 9 * pair, rows + a * width, rows + b * width, s, 0);
                }
            pending += s.out_width;
            /* Not many terms in one sum: what they round to would show in the variances. */
            if (pending >= 256 || (n == last - 1 && row == s.out_height - 1)) {
                for (int sum = 0; sum < SUMS; sum++) {
                    for (int c = 0; c < LANES; c++) sums[sum * LANES + c] += total[sum][c];
                    total[sum] = (VECTOR){0};
                }
                pending = 0;
            }
        }
}

static int NAME(patch_sums)(const REAL *x, const REAL *shift, double *sums, Shape s)
{
    ptrdiff_t blocks = (s.channels + LANES - 1) / LANES;
    ptrdiff_t parts = (4 * MAX_THREADS + blocks - 1) / blocks;
    if (parts > s.images) parts = s.images;
    int failed = 0;
#pragma omp parallel for schedule(dynamic)
    for (ptrdiff_t task = 0; task < blocks * parts; task++) {
        ptrdiff_t block = task % blocks, part = task / blocks, channel = block * LANES;
        int lanes = s.channels - channel < LANES ? (int)(s.channels - channel) : LANES;
        double own[SUMS * LANES] = {0};
        VECTOR *rows = NULL;
        if (posix_memalign((void **)&rows, sizeof(VECTOR), 3 * (s.width + 2 * s.dilation) * sizeof(VECTOR))) {
            failed = 1;
            continue;
        }
        NAME(sum_lanes)(x + channel, shift + channel, own, rows, s, s.images * part / parts,
                        s.images * (part + 1) / parts, lanes);
        free(rows);
#pragma omp critical(mmone_patch_sums)
        for (int sum = 0; sum < SUMS; sum++)
            for (int c = 0; c < lanes; c++) sums[sum * s.channels + channel + c] += own[sum * LANES + c];
    }
    return failed;
}

/* `count` values of a row of the gradient, at any columns that have one kernel. */
static inline __attribute__((always_inline)) void NAME(add_values)(
    const REAL *restrict x, const REAL *restrict kernel, REAL *restrict grad, Shape s, ptrdiff_t h,
    const int32_t *restrict columns, int count, int lanes)
{
    VECTOR sum[UNROLL];
    for (int i = 0; i < count; i++)
        sum[i] = NAME(load)(grad + (h * s.width + columns[i]) * s.channels, lanes)
            + NAME(load)(kernel + 25 * s.channels, lanes);
    for (int down = -2; down <= 2; down++, kernel += 5 * s.channels) {
        ptrdiff_t row = h + down * s.dilation;
        if (row < 0 || row >= s.height) continue;
        for (int right = -2; right <= 2; right++) {
            VECTOR factor = NAME(load)(kernel + (right + 2) * s.channels, lanes);
            ptrdiff_t step = right * s.dilation;
            const REAL *at = x + (row * s.width + step) * s.channels;
            /* Columns are in ascending order. */
            if (columns[0] + step >= 0 && columns[count - 1] + step < s.width)
                for (int i = 0; i < count; i++) sum[i] += factor * NAME(load)(at + columns[i] * s.channels, lanes);
            else
                for (int i = 0; i < count; i++)
                    if (columns[i] + step >= 0 && columns[i] + step < s.width)
                        sum[i] += factor * NAME(load)(at + columns[i] * s.channels, lanes);
        }
    }
    for (int i = 0; i < count; i++)
        memcpy(grad + (h * s.width + columns[i]) * s.channels, &sum[i], lanes * sizeof(REAL));
}

/* `lanes` channels of one row of the gradient, whose columns share the kernels from `kernels` on. */
CLONES static void NAME(add_row)(const REAL *restrict x, const REAL *restrict kernels, REAL *restrict grad, Shape s,
                                 ptrdiff_t h, const Parts *columns, int lanes)
{
    for (int part = 0; part < columns->count; part++, kernels += 26 * s.channels) {
        int i = columns->starts[part], end = columns->starts[part + 1];
        if (lanes == LANES)
            for (; i + UNROLL <= end; i += UNROLL)
                NAME(add_values)(x, kernels, grad, s, h, columns->order + i, UNROLL, LANES);
        for (; i < end; i++) NAME(add_values)(x, kernels, grad, s, h, columns->order + i, 1, lanes);
    }
}

static void NAME(add_gradient)(const REAL *x, const REAL *kernels, REAL *grad, Shape s, const Parts *rows,
                               const Parts *columns)
{
    const ptrdiff_t image = s.height * s.width * s.channels;
#pragma omp parallel for collapse(2)
    for (ptrdiff_t n = 0; n < s.images; n++)
        for (ptrdiff_t h = 0; h < s.height; h++)
            for (ptrdiff_t channel = 0; channel < s.channels; channel += LANES) {
                int lanes = s.channels - channel < LANES ? (int)(s.channels - channel) : LANES;
                NAME(add_row)(x + n * image + channel, kernels + rows->part[h] * columns->count * 26 * s.channels
                              + channel, grad + n * image + channel, s, h, columns, lanes);
            }
}

/* Mean and variance of every branch from the sums over patches; with what the gradient needs again:
 * the kernels times the covariance, and the mean of patches. */
static void NAME(finish)(const double *sums, const REAL *shift, const REAL *kernels, int branches, int skip,
                         REAL *mean, REAL *var, double *products, double *patch_mean, Shape s)
{
    const ptrdiff_t channels = s.channels;
    const double count = (double)s.images * s.out_height * s.out_width;
#pragma omp parallel for
    for (ptrdiff_t c = 0; c < channels; c++) {
        double covariance[TAPS][TAPS], centred[TAPS], *own = patch_mean + c * TAPS;
        for (int a = 0; a < TAPS; a++) {
            centred[a] = sums[tap_sum(a) * channels + c] / count;
            own[a] = centred[a] + shift[c];
        }
        for (int a = 0; a < TAPS; a++)
            for (int b = 0; b < TAPS; b++)
                covariance[a][b] = sums[product_sum(a, b) * channels + c] / count - centred[a] * centred[b];
        for (int branch = 0; branch < branches; branch++) {
            const REAL *kernel = kernels + (branch * channels + c) * TAPS;
            double *product = products + (branch * channels + c) * TAPS, first = 0, second = 0;
            for (int b = 0; b < TAPS; b++) {
                product[b] = 0;
                for (int a = 0; a < TAPS; a++) product[b] += kernel[a] * covariance[a][b];
                first += kernel[b] * own[b];
                second += kernel[b] * product[b];
            }
            mean[branch * channels + c] = first;
            var[branch * channels + c] = second > 0 ? second : 0; /* rounding may leave less than nothing */
        }
        if (skip) {
            mean[branches * channels + c] = own[TAPS / 2];
            var[branches * channels + c] = covariance[TAPS / 2][TAPS / 2];
        }
    }
}

/* Adds to the kernels' gradient, and makes the kernels over x of each part of rows and of columns. */
static void NAME(prepare)(const REAL *kernels, int branches, int skip, const double *products,
                          const double *patch_mean, const REAL *grad_mean, const REAL *grad_var, REAL *grad_kernels,
                          REAL *over_x, Shape s, const Parts *rows, const Parts *columns)
{
    const ptrdiff_t channels = s.channels;
    const double count = (double)s.images * s.out_height * s.out_width;
#pragma omp parallel for
    for (ptrdiff_t c = 0; c < channels; c++) {
        double factors[TAPS][TAPS] = {{0}}, constants[TAPS] = {0};
        const double *own = patch_mean + c * TAPS;
        for (int branch = 0; branch < branches; branch++) {
            const ptrdiff_t at = branch * channels + c;
            const double of_mean = grad_mean[at], of_var = 2 * (double)grad_var[at];
            for (int a = 0; a < TAPS; a++) {
                const double tap = kernels[at * TAPS + a];
                grad_kernels[at * TAPS + a] += of_var * products[at * TAPS + a] + of_mean * own[a];
                constants[a] += of_mean / count * tap;
                for (int b = 0; b < TAPS; b++) factors[a][b] += of_var / count * tap * kernels[at * TAPS + b];
            }
        }
        if (skip) {
            factors[TAPS / 2][TAPS / 2] += 2 * (double)grad_var[branches * channels + c] / count;
            constants[TAPS / 2] += grad_mean[branches * channels + c] / count;
        }
        if (!over_x) continue;
        for (int a = 0; a < TAPS; a++)
            for (int b = 0; b < TAPS; b++) constants[a] -= factors[a][b] * own[b];
        for (int i = 0; i < rows->count; i++)
            for (int j = 0; j < columns->count; j++) {
                double kernel[26] = {0};
                for (int a = 0; a < TAPS; a++) {
                    if (!(rows->taps[i] >> a / 3 & 1 && columns->taps[j] >> a % 3 & 1)) continue;
                    kernel[25] += constants[a];
                    for (int b = 0; b < TAPS; b++)
                        kernel[(b / 3 - a / 3 + 2) * 5 + b % 3 - a % 3 + 2] += factors[a][b];
                }
                for (int k = 0; k < 26; k++)
                    over_x[((i * columns->count + j) * 26 + k) * channels + c] = kernel[k];
            }
    }
}
#undef VECTOR
